"""Texts of the Python form that will be known when the plan runs."""

from helium_jax.plan.template import Text, format_template, normalize


class Expression:
    """A text that will be known when the plan runs; made by a builder, joined with `+`."""

    __slots__ = ("builder", "text")

    def __init__(self, text: Text, builder: object) -> None:
        self.text = text
        self.builder = builder

    def __add__(self, other: "str | Expression") -> "Expression":
        return Expression(normalize([*self.text, *parts_of(other, self.builder)]), self.builder)

    def __radd__(self, other: str) -> "Expression":
        return Expression(normalize([other, *self.text]), self.builder)

    def __repr__(self) -> str:
        return f"Expression({format_template(self.text)!r})"

    def __str__(self) -> str:
        raise TypeError(
            "an expression has no text until the plan runs; join it with + instead of an f-string, "
            "or use fill('... {{name}} ...', name=expression)"
        )

    def __bool__(self) -> bool:
        raise TypeError(
            "an expression is neither true nor false until the plan runs; use branch(...), whose "
            "condition is asked for every row"
        )


TextLike = str | Expression


def parts_of(text: TextLike, builder: object) -> Text:
    """The literals and slots of a string, or of an expression that `builder` made.

    Raises:
        TypeError: it is neither, or belongs to another builder.
    """
    if isinstance(text, str):
        return (text,)
    if not isinstance(text, Expression):
        raise TypeError(f"expected a string or an expression, not {type(text).__name__}")
    if text.builder is not builder:
        raise TypeError(f"{text!r} belongs to another builder")
    return text.text
