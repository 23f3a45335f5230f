"""Who may speak after whom."""

from collections.abc import Sequence

from finetune_trainer.data.formats.conversation import Placed, RowError

_MAY_PRECEDE_ASSISTANT = ("user", "tool")


def check_order(turns: Sequence[Placed]) -> None:
    """Refuse conversations that no server ever holds: there the model answers a user or reads a tool's result.

    Several user turns in a row are fine: the template renders each, in training as in serving.
    Raises: RowError.
    """
    before = None
    for place, turn in turns:
        if turn.role == "system" and before is not None:
            raise RowError(f"{place}.role is system; a system message may only come first")
        if turn.role == "assistant" and before not in _MAY_PRECEDE_ASSISTANT:
            raise RowError(
                f"{place}.role is assistant after {before or 'nothing'}; it must follow a user's or a tool's"
            )
        if turn.role == "tool" and before not in ("assistant", "tool"):
            raise RowError(f"{place}.role is tool after {before or 'nothing'}; it must follow the assistant's call")
        before = turn.role
    if before != "assistant":
        raise RowError(
            f"the last turn is {before or 'nobody'}'s; it must be the assistant's, else there is nothing to learn"
        )
