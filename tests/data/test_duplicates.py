from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from ftframe.api import Conversation, Message
from ftframe.data.duplicates import SHOWN, Duplicates, find_duplicates


def pair(question: str, answer: str) -> Conversation:
    return [Message("user", question), Message("assistant", answer)]


def document(text: str) -> Conversation:
    return [Message("assistant", text)]


def test_what_train_and_validation_share() -> None:
    train = [pair("one", "1"), pair("two", "2"), pair("ONE", " 1"), document("text")]
    validation = [
        pair("three", "3"),
        pair(" One\n", "1"),  # the whole row, but for case and space
        pair("two", "II"),  # the prompt alone
        document("Text"),
        document("1"),  # an answer is not a document
        [Message("system", "one"), *pair("one", "1")],  # another prompt
    ]
    assert find_duplicates(train, validation) == Duplicates(
        conversations=2,
        prompts=2,
        within_train=1,
        first_conversations=((2, 1), (4, 4)),
        first_prompts=((2, 1), (3, 2)),
        first_within_train=((3, 1),),
    )


def test_a_prompt_is_all_before_the_last_answer() -> None:
    train = [[*pair("u", "a"), *pair("v", "b")]]
    assert find_duplicates(train, [[*pair("u", "a"), *pair("v", "other")]]).prompts == 1
    assert find_duplicates(train, [pair("u", "other")]).prompts == 0
    assert find_duplicates(train, [[*pair("u", "other"), *pair("v", "b")]]).prompts == 0


def test_roles_count_and_texts_do_not_run_together() -> None:
    assert find_duplicates([pair("a", "b c")], [pair("a b", "c")]).conversations == 0
    assert find_duplicates([[Message("user", "a")]], [[Message("system", "a")]]).conversations == 0


def test_only_the_first_are_shown() -> None:
    rows = [pair("same", "same")] * (2 * SHOWN)
    found = find_duplicates(rows, rows)
    assert (found.conversations, found.prompts, found.within_train) == (2 * SHOWN, 2 * SHOWN, 2 * SHOWN - 1)
    assert found.first_conversations == tuple((number, 1) for number in range(1, SHOWN + 1))
    assert len(found.first_within_train) == SHOWN


def test_train_may_be_a_stream() -> None:
    def stream() -> Iterator[Conversation]:
        yield pair("u", "a")

    assert find_duplicates(stream(), [pair("u", "a")]).conversations == 1
    assert find_duplicates([], []) == Duplicates(0, 0, 0)


words = st.sampled_from(["a", "A", "b", "a  b", "A b ", ""])
conversations = st.lists(st.builds(pair, words, words), max_size=12)


@given(train=conversations, validation=conversations)
def test_counts_are_those_of_a_plain_comparison(train: list[Conversation], validation: list[Conversation]) -> None:
    def plain(conversation: Conversation) -> list[list[str]]:
        return [message.content.lower().split() for message in conversation]

    learnt = [plain(row) for row in train]
    found = find_duplicates(train, validation)
    assert found.conversations == sum(plain(row) in learnt for row in validation)
    assert found.prompts == sum(plain(row)[0] in [row[0] for row in learnt] for row in validation)
    assert found.within_train == sum(row in learnt[:index] for index, row in enumerate(learnt))
