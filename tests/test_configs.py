"""Configurations: refuse what they do not know, round-trip what they do."""

from dataclasses import dataclass
from typing import Literal

import pytest

from diffembed import configs
from diffembed.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    rate: float
    name: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    steps: int
    inner: Inner
    lengths: tuple[int, ...] = (1, 2)
    kind: Literal["a", "b"] = "a"
    flag: bool = False
    many: tuple[Inner, ...] = ()


CONFIG = Outer(steps=3, inner=Inner(rate=0.5), many=(Inner(rate=1.0, name="x"),))


def test_round_trip():
    assert configs.from_dict(Outer, configs.to_dict(CONFIG)) == CONFIG


def test_overrides_are_typed_and_leave_the_original_alone():
    changed = configs.override(
        CONFIG, ["steps=7", "inner.rate=2", "inner.name=abc", "lengths=[4]", "flag=true", "kind=b"]
    )
    assert changed == Outer(
        steps=7, inner=Inner(rate=2.0, name="abc"), lengths=(4,), flag=True, kind="b", many=CONFIG.many
    )
    assert isinstance(changed.inner.rate, float) and CONFIG.steps == 3
    assert configs.override(changed, ["inner.name=null"]).inner.name is None


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("step=7", "did you mean `steps`"),
        ("inner.rat=1", "did you mean `rate`"),
        ("inner.rate.x=1", "unknown key"),
        ("nothing.at.all=1", "unknown key"),
        ("steps", "key=value"),
        ("=3", "key=value"),
        ("steps=three", "must be int"),
        ("steps=1.5", "must be int"),
        ("steps=true", "must be int"),
        ("flag=1", "must be bool"),
        ("kind=c", "allowed: a, b"),
        ("lengths=3", "must be a list"),
        ('lengths=["x"]', r"lengths\[0\] must be int"),
        ("inner=3", "must be an object"),
        ("inner.rate=NaN", "finite"),
        ("inner.rate=1e999", "finite"),
        ("inner.rate=" + "9" * 400, "finite"),
        ("steps=" + "9" * 30, "smaller"),
        ("steps=" + "9" * 5000, "must be int"),
        ("steps=" + "[" * 100_000, "must be int"),
    ],
)
def test_what_does_not_fit_is_refused(setting, words):
    with pytest.raises(ConfigError, match=words):
        configs.override(CONFIG, [setting])


def test_missing_keys_are_named():
    with pytest.raises(ConfigError, match="steps, inner"):
        configs.from_dict(Outer, {})


def test_digest_tells_configurations_apart():
    assert configs.digest(CONFIG) == configs.digest(configs.override(CONFIG, ["steps=3"]))
    assert configs.digest(CONFIG) != configs.digest(configs.override(CONFIG, ["steps=4"]))


@pytest.mark.parametrize("content", [None, "{", "[1]", b"\xff", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_unreadable_files_are_named(tmp_path, content):
    path = tmp_path / "c.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=r"c\.json"):
        configs.read_json(path)
