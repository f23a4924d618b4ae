"""Tables as text."""

from collections.abc import Collection, Sequence


def table(title: str, lines: Sequence[Sequence[str]], rules: Collection[int], left: int = 2) -> str:
    """A title and lines of cells, the first one the head.

    Args:
        lines: one with fewer cells than the head is a remark, which no column is widened for past the first ones.
        rules: the lines before which a rule is drawn.
        left: the number of columns that are aligned to the left; the others hold numbers.
    """
    full = [line for line in lines if len(line) == len(lines[0])]
    widths = [max(len(line[column]) for line in full) for column in range(len(lines[0]))]
    widths[:left] = [max(len(line[column]) for line in lines) for column in range(left)]
    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    text = [title, "=" * len(title)]
    for number, line in enumerate(lines):
        text += [rule] if number in rules else []
        cells = [
            cell.ljust(width) if column < left or len(line) < len(lines[0]) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=False))
        ]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)
