from tests.unit.ops.implementations import ops

__all__ = ["ops"]
