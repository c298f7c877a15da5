"""Plain dictionaries to frozen dataclasses and back, strictly.

Nothing is guessed: an unknown key, a missing type or a value of another type is a `UserError`
that names the field, the value and what is allowed. Standard library only.
"""

import difflib
import math
import types
from dataclasses import asdict, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from longspan.errors import FieldError, UserError

T = TypeVar("T")
LONGEST = 200  # characters of a value in a message


def from_dict(cls: type[T], data: Any, path: str = "") -> T:
    """Build the dataclass `cls` from nested dictionaries.

    Args:
        cls: a dataclass; annotations may use int, float, bool, str, None, Any, Literal, unions (of
            dataclasses: told apart by their field `name`), `tuple[X, ...]`, `tuple[X, Y]`, `dict[str, X]` and other dataclasses.
        data: what Hydra, YAML or JSON gave.
        path: dotted name of the field that holds `data`, for messages.

    Raises:
        UserError: unknown key, wrong type, or a check of the dataclass itself.
    """
    return cls(**typed_fields(cls, data, path))


def typed_fields(cls: type, data: Any, path: str = "") -> dict[str, Any]:
    """The fields of `from_dict`, each of its type, before the dataclass checks them together.

    Raises:
        UserError: unknown key, or wrong type.
    """
    if not isinstance(data, dict):
        raise UserError(f"{path or 'the configuration'}={_shown(data)} must be a mapping of fields")
    hints = get_type_hints(cls)
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            raise unknown_key(_join(path, str(key)), str(key), known)
    return {k: _convert(hints[k], v, _join(path, k)) for k, v in data.items()}


def to_dict(config: Any) -> dict[str, Any]:
    """The inverse of `from_dict`, with lists for tuples, ready for YAML or JSON."""
    return _plain(asdict(config))


def unknown_key(full_name: str, key: str, known: list[str]) -> FieldError:
    close = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.6)
    prefix = full_name[: len(full_name) - len(key)]
    remedy = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(known)}"
    return FieldError(f"{full_name} is not a field; {remedy}")


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(hint), hint, value, path)
    if origin is Literal:
        if value in get_args(hint) and type(value) in {type(a) for a in get_args(hint)}:
            return value
        raise _wrong(path, value, hint)
    if is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, path)
    if origin is tuple:
        return _convert_tuple(get_args(hint), hint, value, path)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(path, value, hint)
        item = get_args(hint)[1]
        return {str(k): _convert(item, v, _join(path, str(k))) for k, v in value.items()}
    if hint is float and type(value) is int:
        return _as_float(value, path)
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{path}={value} is no finite number")
    if hint is type(None) and value is None:
        return None
    if hint is int and type(value) is int and not -(2**63) <= value < 2**63:
        raise UserError(f"{path}={_shown(value)} does not fit into 64 bits; choose another number")
    # bool is a subclass of int: only the exact type is what the user meant
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise _wrong(path, value, hint)


def _as_float(value: int, path: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise UserError(f"{path}={_shown(value)} is no number of 64 bits; lower it") from None


def _convert_union(members: tuple[Any, ...], hint: Any, value: Any, path: str) -> Any:
    if isinstance(value, dict) and all(is_dataclass(member) for member in members):
        return _convert_variant(members, value, path)
    variants: list[Any] = [member for member in members if is_dataclass(member)]
    if isinstance(value, dict) and len(variants) == 1:  # or null: what is wrong stands inside
        return from_dict(variants[0], value, path)
    # an exact match wins over a widening one: 1 stays an int in `int | float`
    for member in members:
        if isinstance(member, type) and type(value) is member:
            return _convert(member, value, path)
    for member in members:
        try:
            return _convert(member, value, path)
        except UserError:
            continue
    raise _wrong(path, value, hint)


def _convert_variant(members: tuple[Any, ...], value: dict[str, Any], path: str) -> Any:
    """Dataclasses told apart by their `name`, a Literal; the first is the default."""
    variants = {get_args(get_type_hints(member)["name"])[0]: member for member in members}
    name = value.get("name", next(iter(variants)))
    if not isinstance(name, str) or name not in variants:
        raise UserError(f"{path}.name={_shown(name)} is not known; known: {', '.join(variants)}")
    return from_dict(variants[name], value, path)


def _convert_tuple(members: tuple[Any, ...], hint: Any, value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(path, value, hint)
    if len(members) == 2 and members[1] is Ellipsis:
        return tuple(_convert(members[0], v, f"{path}[{i}]") for i, v in enumerate(value))
    if len(members) != len(value):
        raise _wrong(path, value, hint)
    return tuple(_convert(m, v, f"{path}[{i}]") for i, (m, v) in enumerate(zip(members, value)))


def _wrong(path: str, value: Any, hint: Any) -> FieldError:
    return FieldError(f"{path}={_shown(value)} has the wrong type; allowed: {_say(hint)}")


def _shown(value: Any) -> str:
    """A value as code writes it; of a long one, its beginning."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _say(hint: Any) -> str:
    """A type as a user writes it."""
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
    if hint is type(None):
        return "null"
    if hint in names:
        return names[hint]
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return ", or ".join(dict.fromkeys(_say(m) for m in get_args(hint)))
    if origin is Literal:
        return " | ".join(str(a) for a in get_args(hint))
    if origin is tuple and get_args(hint)[-1] is not Ellipsis:
        return f"[{', '.join(_say(m) for m in get_args(hint))}]"
    if origin is tuple:
        return f"a list of ({_say(get_args(hint)[0])})"
    if origin is dict:
        return f"a mapping to ({_say(get_args(hint)[1])})"
    return str(hint)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
