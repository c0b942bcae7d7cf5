"""Objects built from parameter sections by field names."""

import dataclasses
from types import SimpleNamespace

import pydantic

from medunifier.runtime.fields import matching_fields


@dataclasses.dataclass
class Target:
    width: int
    rate: float = 0.5


class Section(pydantic.BaseModel):
    rate: float
    unrelated: str = "left out"


def test_values_come_by_name_and_the_later_section_wins():
    plain = SimpleNamespace(width=3, rate=0.1, other=None)
    assert matching_fields(Target, plain) == {"width": 3, "rate": 0.1}
    assert matching_fields(Target, plain, Section(rate=0.2)) == {"width": 3, "rate": 0.2}
    assert matching_fields(Target, Section(rate=0.2)) == {"rate": 0.2}
