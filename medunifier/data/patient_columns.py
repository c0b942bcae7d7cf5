"""Sex and age of patients, as indexes write them, for text from labels."""

import polars as pl

# Words for the sexes, in small letters -> the value of RAW_IMAGES; anything else is unknown.
_SEXES = {"f": "F", "female": "F", "w": "F", "woman": "F", "m": "M", "male": "M", "man": "M"}
_OLDEST = 120  # years; above this an age is a typing error: NIH ChestX-ray14's first version has 414


def as_sex(column: pl.Expr) -> pl.Expr:
    """Return F or M for texts such as `Female` or `m`; null for any other."""
    return column.str.to_lowercase().replace_strict(_SEXES, default=None, return_dtype=pl.String)


def as_age(column: pl.Expr) -> pl.Expr:
    """Return an age in whole years for `58`, `58.0` or `058Y` (as in DICOM); null for any other text."""
    age = column.str.strip_suffix("Y").cast(pl.Float64, strict=False).floor()
    return pl.when(age.is_between(0, _OLDEST)).then(age).cast(pl.Int64)
