"""The sections of a configuration whose keys do not depend on a name."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt


class Section(BaseModel):
    """A table of a configuration: no key but those below, and no conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Flip(Section):
    """Left and right exchanged in half of the images."""

    name: Literal["flip"]


class PaddedCrop(Section):
    """A window of the image with a black margin."""

    name: Literal["padded_crop"]
    padding: PositiveInt = 4


class ResizedCrop(Section):
    """A part of the image, enlarged to its size."""

    name: Literal["resized_crop"]
    area: list[float] = Field([0.08, 1.0], min_length=2, max_length=2, description="least and largest share")


class DataRules(Section):
    """Keys of `[data]` that every data set has; each adds its own (`smilax.experiments.sources`)."""

    name: str
    order: Literal["independent", "epochs"] = Field(
        "independent", description="batches drawn afresh at each step, or shuffled epochs as published"
    )
    replacement: bool = Field(False, description="whether an independent batch may hold a row twice")
    augment: list[Annotated[Flip | PaddedCrop | ResizedCrop, Field(discriminator="name")]] = Field(
        [], description="changes of the training images of each batch, in this order"
    )
    max_rows: PositiveInt | None = Field(None, description="use so many training rows only")
    max_test_rows: PositiveInt | None = Field(None, description="score so many test rows only")


class WarmStart(Section):
    """`[warm_start]`: where the chains begin."""

    kind: Literal["ensemble", "random"] = Field("ensemble", description="trained networks, or initialised ones")
    max_epochs: PositiveInt = 200
    patience: PositiveInt = Field(10, description="epochs without a better validation loss before a member stops")
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = Field(1e-2, description="of AdamW")
    weight_decay: float = Field(5e-3, ge=0)
    schedule: Literal["constant", "cosine", "linear"] = Field("constant", description="of the learning rate, to zero")
    objective: Literal["likelihood", "posterior"] = "likelihood"


def _different(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("each seed has to come once")
    return seeds


class Run(Section):
    """`[run]`: chains and steps."""

    seeds: Annotated[list[NonNegativeInt], AfterValidator(_different)] = Field(
        [1], min_length=1, description="each has its own split, warm start and chains"
    )
    num_chains: PositiveInt = Field(8, description="also the number of ensemble members")
    num_warmup: NonNegativeInt = Field(5000, description="steps of warm-up per chain")
    num_samples: PositiveInt = Field(10_000, description="steps after it")
    thinning: PositiveInt = Field(10, description="steps per draw that is kept")
    batch_size: PositiveInt | Literal["full"] = Field(256, description='rows per step, or "full"')
    chain_method: Literal["auto", "vectorized", "sequential", "parallel"] = "auto"


class Output(Section):
    """`[output]`: what is written."""

    directory: str | None = Field(None, description="folder of the run; runs/NAME if not given")
    draws: bool = Field(True, description="keep the draws of runs that are finished and scored")
    report: bool = Field(False, description="write an HTML report of every run")
