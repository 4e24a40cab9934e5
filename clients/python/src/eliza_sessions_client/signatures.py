"""Methods that are made of the description of a call: they show its arguments and its text."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

M = TypeVar("M", bound=Callable[..., Any])


def described_by(build: Callable[..., Any], name: str = "", text: str = "") -> Callable[[M], M]:
    """Gives a method the name, the text and the arguments of the function that describes its call; another
    name and text, where these are given.
    """

    def describe(method: M) -> M:
        method.__name__ = method.__qualname__ = name or build.__name__
        method.__doc__ = text or build.__doc__
        this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        told = inspect.signature(build)
        shown: Any = method
        shown.__signature__ = told.replace(parameters=[this, *told.parameters.values()])
        return method

    return describe
