"""The tables `[[rules]]` of the daemon's file. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from ipcd_client.access import patterns
from ipcd_client.access.rules import BUILT_IN, EFFECTS, VERBS, Effect, Rule
from ipcd_client.errors import ConfigError

_REQUIRED: Final = ("effect", "who", "may", "what")
_KEYS: Final = (*_REQUIRED, "name")
_BY_PLACE: Final = re.compile(r"rule \d+")
# Characters.
_NAME_MOST: Final = 80


def checked(value: object, source: str) -> tuple[Rule, ...]:
    """The rules that `value`, a list of tables, has. `source`: the key and the file, for the errors' texts.

    Raises:
        ConfigError: naming the source, the rule and the key.
    """
    if not isinstance(value, (list, tuple)) or not all(isinstance(table, Mapping) for table in value):
        raise ConfigError(f"{source}: it is not a list of tables, each of which begins with [[rules]]")
    rules: list[Rule] = []
    for number, table in enumerate(value, 1):
        rule = _rule(table, f"rule {number}", source)
        twin = next((index for index, other in enumerate(rules, 1) if other.name == rule.name), None)
        if twin is not None:
            raise ConfigError(f"{source}, rule {number}, name: rule {twin} is called {rule.name!r} already")
        rules.append(rule)
    return tuple(rules)


def _rule(table: Mapping[str, object], place: str, source: str) -> Rule:
    name = table.get("name", place)
    where = f"{source}, {place}"
    if name is not place:
        name = _name(name, f"{where}, name")
        where += f" ({name})"
    for key in table:
        if key not in _KEYS:
            raise ConfigError(f"{where}: there is no key {key!r}; there are {', '.join(_KEYS)}")
    for key in _REQUIRED:
        if key not in table:
            raise ConfigError(f"{where}: {key} is missing")
    return Rule(
        str(name),
        _effect(table["effect"], f"{where}, effect"),
        _patterns(table["who"], f"{where}, who", patterns.who),
        _verbs(table["may"], f"{where}, may"),
        _patterns(table["what"], f"{where}, what", patterns.name),
    )


def _name(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > _NAME_MOST:
        raise ConfigError(f"{where}: {value!r} is not a text of 1 to {_NAME_MOST} printable characters")
    if value in BUILT_IN:
        raise ConfigError(f"{where}: a rule that is always there is called {value!r}")
    if _BY_PLACE.fullmatch(value):
        raise ConfigError(f"{where}: rules without a name are called like {value!r}, by their place")
    return value


def _effect(value: object, where: str) -> Effect:
    for effect in EFFECTS:
        if value == effect:
            return effect
    raise ConfigError(f"{where}: {value!r} is none of {', '.join(EFFECTS)}")


def _verbs(value: object, where: str) -> tuple[str, ...]:
    verbs = _texts(value, where)
    if verbs == (patterns.ANY,):
        return VERBS
    for verb in verbs:
        if verb not in VERBS:
            raise ConfigError(f"{where}: {verb!r} is none of {', '.join(VERBS)}; * alone is all of them")
    return tuple(verb for verb in VERBS if verb in verbs)


def _patterns(value: object, where: str, compiled: Callable[[str], object]) -> tuple[str, ...]:
    texts = _texts(value, where)
    for text in texts:
        try:
            compiled(text)
        except patterns.BadPattern as error:
            raise ConfigError(f"{where}: {text!r}: {error}") from error
    return texts


def _texts(value: object, where: str) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not texts or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{where}: {value!r} is neither a text nor a list of texts")
    return tuple(texts)
