"""What all sections of params.yaml share: the base class, `knob` and the types of values."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict
from pydantic_core import PydanticCustomError

NO_FILE = "workflow/none.txt"  # stands for "none" where dvc.yaml needs a path
MAX_COUNT = 100_000_000  # steps, images, resamples: beyond any run
MAX_WIDTH = 65_536  # of a layer


class Section(BaseModel):
    """A section of params.yaml: frozen, no unknown keys, no conversion between types, finite numbers only."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=False
    )

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values, which are not checked."""
        unknown = set(changes) - set(type(self).model_fields)
        if unknown:
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        return self.model_copy(update=changes)


def knob(description: str, *, unit: str | None = None, allowed: str | None = None, **limits: Any) -> Any:
    """Declare a parameter: pydantic's `Field` with one sentence and the unit.

    Args:
        description: One sentence, shown in the presets, docs/parameters.md and editors.
        unit: Unit of the value.
        allowed: In words, what `pattern` allows or what else holds.
        **limits: `ge`, `gt`, `le`, `lt`, `multiple_of`, `min_length`, `max_length`, `pattern`, `default`.
    """
    extra = {"unit": unit, "allowed": allowed}
    return Field(
        description=description,
        json_schema_extra={key: value for key, value in extra.items() if value is not None},
        **limits,
    )


def _whole(value: Any) -> Any:
    """Read 1e5 and 5.0 as integers."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _no_repeats(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise PydanticCustomError("repeats", "repeats")
    return values


def of_pattern(pattern: str, allowed: str) -> Any:
    """Return the limits of a name: a regular expression, and in words what it allows."""
    return Field(pattern=pattern, max_length=64, json_schema_extra={"allowed": allowed})


Int = Annotated[int, BeforeValidator(_whole)]
# A control character in the name of a file or column is a slip; a NUL or a line break stops more than one program.
ONE_LINE = "one line, without control characters"
Text = Annotated[
    str,
    Field(
        min_length=1,
        max_length=4096,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        json_schema_extra={"allowed": ONE_LINE},
    ),
]
Seed = Annotated[Int, Field(ge=0, le=2**32 - 1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Precision = Literal["fp32", "bf16", "fp16"]

# Names become parts of file names, stage names and shell commands. DVC looks parameters up by dotted names, so that
# the names of data sets and variants, which are keys, hold no dot.
Name = Annotated[
    str, of_pattern("^[A-Za-z][A-Za-z0-9_-]*$", "letters, digits, `_` and `-`, the first a letter")
]
DottedName = Annotated[
    str, of_pattern("^[A-Za-z][A-Za-z0-9_.-]*$", "letters, digits, `.`, `_` and `-`, the first a letter")
]

# Lists without repeats
LIST = (Strict(False), AfterValidator(_no_repeats), Field(json_schema_extra={"uniqueItems": True}))
Texts = Annotated[tuple[Text, ...], *LIST]
Names = Annotated[tuple[DottedName, ...], *LIST]
Shards = Annotated[tuple[Annotated[Int, Field(ge=0, lt=100_000)], ...], *LIST]
Levels = Annotated[tuple[Annotated[Int, Field(ge=1, le=256)], ...], *LIST]  # strides
Percents = Annotated[tuple[Annotated[Int, Field(ge=1, le=100)], ...], *LIST]
CutOffs = Annotated[tuple[Annotated[Int, Field(ge=1, le=MAX_COUNT)], ...], *LIST]
Seeds = Annotated[tuple[Seed, ...], *LIST, Field(min_length=1)]
Fractions = Annotated[tuple[Fraction, ...], Strict(False)]  # lists of a fixed length, set at the field
Temperatures = Annotated[tuple[Annotated[float, Field(gt=0, le=100)], ...], Strict(False)]
Widths = Annotated[tuple[Annotated[Int, Field(ge=1, le=MAX_WIDTH)], ...], Strict(False)]
