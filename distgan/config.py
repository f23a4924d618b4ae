"""Every setting of a run: its type, unit, default and limits, and the checks between settings.

Settings are scalars and lists of scalars. `TrainConfig` is frozen; models, losses and data never see it: the builders
in `distgan/build.py` unpack it into plain arguments. A model declares its own section (`distgan/models`), so the class
to validate with depends on `model.name`: `config_class(name)` gives it.
"""

import functools
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from distgan.models import MODELS
from distgan.models.base import ModelOptions

DEFAULT_MODEL = "dcgan"
DEFAULT_RECIPE = "digits-dcgan"  # launch/recipes/digits-dcgan.yaml spells out the defaults below; a test holds them equal

# What a resumed run may change: none of these moves a weight (an accumulation step does so through batch norm only).
RESUME_MAY_CHANGE = (
    "run.dir",
    "run.overwrite",
    "train.total_kimg",
    "data.num_workers",
    "data.on_error",
    "data.max_skipped_share",
    "data.cache_dir",
    "data.cache_gigabytes",
    "data.fetch",
    "engine",
    "checkpoint",
    "metrics",
)


class Section(BaseModel):
    """A group of settings; unknown keys, infinities and NaN are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Run(Section):
    """Where the run lives and what makes it repeatable."""

    dir: str = Field(
        default=f"runs/{DEFAULT_RECIPE}", min_length=1, description="directory of the run; with --config: runs/<name of the last such file>"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of every random number of the run")
    overwrite: bool = Field(default=False, description="move an existing run at run.dir aside and start afresh")


class Train(Section):
    """How long to train and with what batches."""

    total_kimg: float = Field(default=150.0, gt=0, description="length of the run in thousands of real images shown to the discriminator")
    batch_size: int = Field(default=64, ge=1, description="images per step over all ranks and accumulation steps together")
    discriminator_steps: int = Field(default=1, ge=1, description="discriminator steps (one real batch each) per generator step")


class Augment(Section):
    """What happens to each real image before the discriminator sees it, drawn anew every time; the generator learns it, too."""

    flip: bool = Field(default=False, description="mirror left and right, with probability 1/2")
    rotation_degrees: float = Field(default=0.0, ge=0, le=180, description="turn by an angle of up to this, in degrees, to either side")
    shift: float = Field(default=0.0, ge=0, lt=1, description="move by up to this share of the side, sideways and up or down")
    zoom: float = Field(default=0.0, ge=0, lt=1, description="enlarge by a factor of 1 - zoom to 1 + zoom (below 1)")


def _to_int(value: object) -> object:
    """Flags are texts, which a choice between numbers does not take."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


class Data(Section):
    """The training images."""

    url: str = Field(
        default="digits",
        min_length=1,
        description="'digits' (embedded), or a directory, a tar file or a pattern ({..}, *) of WebDataset shards, also at http(s)://, "
        "s3://, gs://; mode stream: tar files, http(s)://... and 'pipe:' and a command of the shell",
    )
    mode: Literal["indexed", "stream"] = Field(
        default="indexed",
        description="indexed: samples are read by their places, in an order that a resumed run goes on with; stream: shards are read as "
        "they come, for what cannot be indexed",
    )
    resolution: int | None = Field(
        default=None,
        ge=4,
        description="side in pixels to which images are scaled and centre-cropped; null: the images' own size (not mode stream)",
    )
    channels: Annotated[Literal[1, 3] | None, BeforeValidator(_to_int)] = Field(
        default=None, description="1: grey, 3: RGB; null: 3 if any image is in colour (mode stream: 3), else 1"
    )
    num_classes: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="of conditional models: labels are 0 to num_classes - 1; null: as many as are found (not mode stream)",
    )
    num_workers: int = Field(
        default=2, ge=0, description="processes per rank that read and decode images; 0: the training process does it itself"
    )
    shuffle_window: int = Field(default=16, ge=1, description="mode indexed: number of shards whose samples are shuffled together")
    on_error: Literal["fail", "skip"] = Field(
        default="fail",
        description="what to do about a sample that cannot be read: fail with its name, or put another one in its place",
    )
    max_skipped_share: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="on_error skip: the largest share of all samples (mode stream: of those read so far) that may be skipped",
    )
    balance_classes: bool = Field(
        default=False, description="draw every class equally often, from all shards at once (data.shuffle_window is without effect)"
    )
    cache_dir: str | None = Field(
        default=None, min_length=1, description="local directory of remote shards that were read before; null: in the user's cache"
    )
    cache_gigabytes: float = Field(
        default=50.0, gt=0, description="size that the cache may have, in GB (10^9 bytes); what was used longest ago goes first"
    )
    fetch: Literal["auto", "shards", "samples"] = Field(
        default="auto",
        description="remote data: bring whole shards before their time, or only the samples a rank needs; auto: shards on up to 3 nodes",
    )
    augment: Augment = Augment()


class Loss(Section):
    """The adversarial loss."""

    name: Literal["non_saturating", "hinge", "wasserstein"] = Field(
        default="non_saturating", description="non_saturating (softplus), hinge or wasserstein"
    )


class Penalty(Section):
    """The discriminator's gradient penalty."""

    name: Literal["none", "r1", "wgan_gp", "approximated_r1"] = Field(
        default="r1", description="none, r1 (on real images), wgan_gp (between real and fake), or approximated_r1 (r1 by differences)"
    )
    weight: float = Field(default=0.2, ge=0, description="gamma of R1 (the penalty is gamma/2 |g|^2) or lambda of WGAN-GP")
    every: int = Field(default=4, ge=1, description="discriminator steps from one penalty to the next; the weight is multiplied by it")
    formulation: Literal["auto", "double_backward", "forward_over_reverse"] = Field(
        default="auto", description="how the exact gradient is computed; auto takes double_backward"
    )
    noise_std: float = Field(
        default=0.01, gt=0, description="approximated_r1: standard deviation of the steps away from a real image, in [-1, 1] of its values"
    )


class Optimizer(Section):
    """Adam."""

    learning_rate: float = Field(default=1e-3, gt=0, description="step size of Adam")
    beta1: float = Field(default=0.5, ge=0, lt=1, description="decay of the first moment, per step")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="decay of the second moment, per step")
    eps: float = Field(default=1e-8, gt=0, description="added to the root of the second moment")
    max_gradient_norm: float | None = Field(
        default=None, gt=0, description="a gradient with a larger Euclidean norm over all parameters is scaled down to it; null: no limit"
    )


class Ema(Section):
    """The exponential moving average of the generator's weights."""

    half_life_kimg: float = Field(default=10.0, gt=0, description="half-life of the average in thousands of images")
    ramp_up: float = Field(default=0.05, gt=0, description="at the start the half-life is at most this fraction of the images seen so far")


class PrecisionOptions(Section):
    """In which precision the networks run. Parameters, gradients, optimizers, losses and penalties are fp32 always."""

    dtype: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="of matrix products and convolutions: fp32, bf16 or (with ddp only) fp16, whose losses are scaled"
    )


class EngineOptions(Section):
    """How the ranks work together."""

    name: Literal["ddp", "deepspeed"] = Field(
        default="ddp", description="ddp: torch's DistributedDataParallel (nothing is wrapped on one rank); deepspeed: DeepSpeed's ZeRO"
    )
    zero_stage: int = Field(
        default=0,
        ge=0,
        le=3,
        description="what ZeRO shards over the ranks: 0 nothing, 1 the optimizer's state, 2 also gradients, 3 also parameters",
    )
    deepspeed_config: str | None = Field(
        default=None, min_length=1, description="JSON file with DeepSpeed's own settings (buckets, overlapping, offloading); null: none"
    )
    accumulation_steps: int = Field(default=1, ge=1, description="micro-batches per step, to lower memory; batch norm sees one micro-batch")
    timeout_seconds: float = Field(default=600.0, gt=0, description="how long a rank waits for the others before it gives up, in seconds")
    evaluation_timeout_seconds: float = Field(
        default=7200.0, gt=0, description="the same while rank 0 alone draws, saves or evaluates, in seconds"
    )

    @property
    def needs_process_group(self) -> bool:
        """Whether the engine needs one on a single rank, too."""
        return self.name == "deepspeed"


class Checkpoint(Section):
    """What is kept of the run so that it can go on."""

    every_kimg: float = Field(default=20.0, gt=0, description="thousands of images from one checkpoint to the next")
    keep: int = Field(default=3, ge=1, description="number of newest checkpoints that are kept")


class Metrics(Section):
    """What the run tells of itself."""

    host: str = Field(default="127.0.0.1", min_length=1, description="address on which each rank serves Prometheus metrics")
    port: int = Field(default=9400, ge=0, le=65000, description="port of local rank 0's metrics; rank k of a node serves port + k; 0: none")
    log_every_kimg: float = Field(default=1.0, gt=0, description="thousands of images from one line of log.jsonl to the next")
    samples_every_kimg: float = Field(default=10.0, gt=0, description="thousands of images from one sample grid to the next")
    num_sample_images: int = Field(default=80, ge=1, le=4096, description="images in a sample grid")


class TrainConfig(Section):
    """distgan.train: train a GAN. The same command again resumes the run."""

    run: Run = Run()
    train: Train = Train()
    data: Data = Data()
    model: ModelOptions
    loss: Loss = Loss()
    penalty: Penalty = Penalty()
    generator_optimizer: Optimizer = Optimizer()
    discriminator_optimizer: Optimizer = Optimizer()
    ema: Ema = Ema()
    precision: PrecisionOptions = PrecisionOptions()
    engine: EngineOptions = EngineOptions()
    checkpoint: Checkpoint = Checkpoint()
    metrics: Metrics = Metrics()


@functools.cache
def config_class(model_name: str) -> type[TrainConfig]:
    """`TrainConfig` with the section that the model `model_name` (a key of `MODELS`) declares."""
    options: Any = MODELS[model_name].Options
    return create_model(
        "TrainConfig",
        __base__=TrainConfig,
        __doc__=TrainConfig.__doc__,
        model=(options, options()),
    )


def without_overwrite(config: TrainConfig) -> TrainConfig:
    """The same, but resuming: for workers that are started again and must not move aside what they began themselves."""
    return config.model_copy(update={"run": config.run.model_copy(update={"overwrite": False})})


def flatten(values: dict, prefix: str = "") -> dict[str, object]:
    """{'train': {'batch_size': 64}} -> {'train.batch_size': 64}."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def problems_between_fields(config: TrainConfig, world_size: int) -> list[str]:
    """A sentence for each pair of settings that cannot go together on `world_size` ranks."""
    problems = []
    batch_size, accumulation = config.train.batch_size, config.engine.accumulation_steps
    if batch_size % (world_size * accumulation):
        problems.append(
            f"train.batch_size is {batch_size}, which does not divide by {world_size} ranks x engine.accumulation_steps "
            f"{accumulation}; set train.batch_size to a multiple of {world_size * accumulation}."
        )
    if config.penalty.name != "none" and config.model.discriminator_mixes_samples:
        problems.append(
            f"penalty.name is {config.penalty.name!r}, a penalty per sample, but the discriminator's batch norm makes every output "
            "depend on the whole batch; set model.discriminator_norm to spectral or none, or penalty.name to none."
        )
    if config.penalty.name == "approximated_r1" and config.penalty.formulation != "auto":
        problems.append(
            f"penalty.formulation is {config.penalty.formulation!r}, but penalty.name is 'approximated_r1', which takes no derivative; "
            "set penalty.name to r1, or leave penalty.formulation out."
        )
    if config.precision.dtype == "fp16" and config.engine.name == "deepspeed":
        problems.append(
            "precision.dtype is 'fp16', but engine.name is 'deepspeed', which would scale the losses of a precision of its own only; "
            "set precision.dtype to bf16, or engine.name to ddp."
        )
    if config.loss.name == "wasserstein" and config.penalty.name != "wgan_gp" and not config.model.discriminator_is_lipschitz:
        problems.append(
            f"loss.name is 'wasserstein', which has no lower bound unless the discriminator's slope has one, but penalty.name is "
            f"{config.penalty.name!r}; set penalty.name to wgan_gp, or take a discriminator with spectral norm "
            "(model.discriminator_norm of dcgan, model.name sngan)."
        )
    return problems


def changed_fields(saved: dict, current: dict) -> dict[str, tuple[object, object]]:
    """{field: (saved value, current value)} for every setting that differs; both arguments are nested dumps."""
    saved, current = flatten(saved), flatten(current)
    missing = "not set"
    return {
        field: (saved.get(field, missing), current.get(field, missing))
        for field in sorted(saved.keys() | current.keys())
        if saved.get(field, missing) != current.get(field, missing)
    }


def resume_may_change(field: str) -> bool:
    """Whether a resumed run may differ in this dotted field."""
    return any(field == allowed or field.startswith(allowed + ".") for allowed in RESUME_MAY_CHANGE)
