"""Loss of the right answers in conversations: how likely a model finds what the assistant should say."""

from lit_long.evaluation.chats.examples import ChatExample, examples_of, without_middle
from lit_long.evaluation.chats.measure import answer_loss, measure_chats
from lit_long.evaluation.chats.summary import ChatScore, summarise_chats

__all__ = [
    "ChatExample",
    "ChatScore",
    "answer_loss",
    "examples_of",
    "measure_chats",
    "summarise_chats",
    "without_middle",
]
