"""Classes that are known by a word, so that a configuration can name them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from corepress.errors import ConfigError
from corepress.fields import suggestion

C = TypeVar("C", bound=type)


class Registry:
    """A base whose every direct subclass keeps a registry of its own."""

    _registry: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Registry in cls.__bases__:
            cls._registry = {}

    @classmethod
    def register(cls, key: str) -> Callable[[C], C]:
        """A decorator: the class becomes known as `key`, in place of one that was before."""

        def registered(added: C) -> C:
            cls._registry[key] = added
            return added

        return registered

    @classmethod
    def get_class(cls, key: Any) -> Any:
        """The class of that name, or the class itself; ConfigError for a name that nobody registered."""
        if isinstance(key, type) and issubclass(key, cls):
            return key
        if key not in cls._registry:
            raise ConfigError(f"{key!r} is not a registered {cls.__name__}. {suggestion(key, cls._registry)}")
        return cls._registry[key]
