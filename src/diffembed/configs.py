"""Load, dump, override and hash frozen dataclasses. Knows no domain field."""

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from diffembed.errors import ConfigError, DiffembedError

C = TypeVar("C")

# Nothing that is counted or measured here comes near it, and it still fits every C type that it may end in.
LARGEST = 2**62


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a configuration into plain JSON values (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[C], data: Mapping[str, Any], *, where: str = "") -> C:
    """Build a configuration from plain values, and refuse what it does not know.

    Args:
        cls: A dataclass; its fields may be dataclasses, tuples, `X | None` and plain values.
        data: The values by field name.
        where: Dotted path of `data`, for messages.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(
            f"{where or cls.__name__} must be an object, got {type(data).__name__}",
            hint="set its fields one by one: --set name.field=value",
        )
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in data:
        if key not in fields:
            raise _unknown_key(key, cls.__name__, fields)
    missing = [
        name
        for name, field in fields.items()
        if name not in data and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where or cls.__name__} lacks {', '.join(missing)}", hint="add the missing keys")
    values = {key: _convert(hints[key], value, f"{where}.{key}".lstrip(".")) for key, value in data.items()}
    return cls(**values)


def override(config: C, settings: Iterable[str]) -> C:
    """Replace fields named on a command line, for example `optimizer.peak_lr=3e-4`.

    The value is read as JSON where that works (`3`, `true`, `null`, `[1, 2]`) and as a plain string otherwise.

    Raises:
        ConfigError: A setting has no `=`, a key is unknown or a value does not fit its field.
    """
    data = to_dict(config)
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key:
            raise ConfigError(f"cannot read the setting `{setting}`", hint="write it as key=value")
        *parents, last = key.split(".")
        target: Any = data
        for name in parents:
            if not isinstance(target, dict) or name not in target:
                raise _unknown_key(name, key, target if isinstance(target, dict) else ())
            if target[name] is None:
                raise ConfigError(
                    f"`{name}` is null, so it has no `{key.removeprefix(name + '.')}` to set",
                    hint=f"set it whole, as JSON: --set '{name}={{...}}'",
                )
            target = target[name]
        if not isinstance(target, dict) or last not in target:
            raise _unknown_key(last, type(config).__name__, target if isinstance(target, dict) else ())
        try:
            target[last] = json.loads(text)
        except (ValueError, RecursionError):
            target[last] = text
    return from_dict(type(config), data)


def digest(config: Any) -> str:
    """Short SHA-256 of a configuration: equal for equal settings, in any order of keys."""
    text = json.dumps(to_dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_json(path: Path, error: type[DiffembedError] = ConfigError) -> dict[str, Any]:
    """Read a JSON object from a file.

    Args:
        path: The file.
        error: What to raise.

    Raises:
        ConfigError: Or `error`: the file is missing, is not UTF-8 JSON, or holds something else than an object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as reason:
        raise error(f"cannot read {path}: {reason.strerror or reason}", hint="check the path") from None
    except (ValueError, RecursionError) as reason:  # no UTF-8, no JSON, an integer of 5,000 digits
        raise error(f"{path} is not valid JSON: {reason}", hint="restore the file or make it anew") from None
    if not isinstance(data, dict):
        raise error(f"{path} must hold a JSON object, got {type(data).__name__}", hint="restore the file")
    return data


def _unknown_key(key: str, owner: str, known: Iterable[str]) -> ConfigError:
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known) or 'none'}"
    return ConfigError(f"unknown key `{key}` in {owner}", hint=hint)


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(typing.get_args(kind), value, where)
    if dataclasses.is_dataclass(kind):
        return from_dict(kind, value, where=where)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list | tuple):
        item = typing.get_args(kind)[0]
        return tuple(_convert(item, each, f"{where}[{i}]") for i, each in enumerate(value))
    if origin is typing.Literal:
        if value in typing.get_args(kind):
            return value
        raise ConfigError(f"{where} is {value!r}", hint=f"allowed: {', '.join(map(str, typing.get_args(kind)))}")
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        # No setting of ours means anything at infinity, and NaN passes every comparison.
        if abs(value) < LARGEST and value == value:
            return float(value)
        raise ConfigError(f"{where} is {str(value)[:20]}", hint="give a finite number")
    if kind is int and isinstance(value, int) and not isinstance(value, bool) and abs(value) >= LARGEST:
        raise ConfigError(f"{where} is {str(value)[:20]}...", hint="give a smaller number")
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    wanted = "a list" if origin is tuple else getattr(kind, "__name__", str(kind))
    hint = "write it as [1, 2]" if origin is tuple else f"give a value of type {wanted}"
    raise ConfigError(f"{where} must be {wanted}, got {value!r}", hint=hint)


def _convert_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    last: ConfigError | None = None
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return _convert(kind, value, where)
        except ConfigError as error:
            last = error
    assert last is not None
    raise last
