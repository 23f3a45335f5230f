"""What is learnt of a conversation, and which rows are refused."""

from mutations.mutation import Mutation

DATA = "trainer/finetune_trainer/data"
TESTS = "tests/unit/trainer_data"
SUPERVISION = (f"{TESTS}/test_supervision.py",)
LEARNT = "only what the assistant says is learnt"

MUTATIONS = [
    Mutation(
        guards=LEARNT,
        name="headers are learnt as well",
        file=f"{DATA}/masks.py",
        old="                begins.append(at + size)",
        new="                begins.append(at)",
        tests=SUPERVISION,
        shows="",
    ),
    Mutation(
        guards=LEARNT,
        name="the end token is not learnt",
        file=f"{DATA}/masks.py",
        old="return ids.index(self._end, begin) + 1",
        new="return ids.index(self._end, begin)",
        tests=SUPERVISION,
        shows="assert",
    ),
    Mutation(
        guards=LEARNT,
        name="a turn without weight is learnt",
        file=f"{DATA}/masks.py",
        old="            if answer.is_learnt:\n",
        new="            if True:\n",
        tests=SUPERVISION,
        shows="",
    ),
    Mutation(
        guards="empty think blocks are not learnt",
        name="what a server puts before an answer without thinking is learnt",
        file=f"{DATA}/masks.py",
        old="tail = self._thinking_tail if answer.thinks else self._plain_tail",
        new="tail = self._thinking_tail",
        tests=(f"{TESTS}/test_chat.py::test_think_blocks_follow_the_policy_in_each_family",),
        shows="assert",
    ),
    Mutation(
        guards="empty think blocks are not learnt",
        name="an empty block of an earlier answer is its own",
        file=f"{DATA}/masks.py",
        old="return len(self._empty) if is_empty_block and not answer.thinks else 0",
        new="return 0",
        tests=(f"{TESTS}/test_chat.py", f"{TESTS}/test_training_text.py"),
        shows="assert",
    ),
    Mutation(
        guards="what is trained is what serving sends",
        name="the prompt of the last answer is not compared",
        file=f"{DATA}/training_text.py",
        old='if text.startswith(prompt) and not answer.startswith(("\\n", "\\r")):',
        new="if True:",
        tests=(f"{TESTS}/test_chat.py", f"{TESTS}/test_training_text.py", *SUPERVISION),
        shows="",
    ),
    Mutation(
        guards="what is trained is what serving sends",
        name="the last answer may stand behind another prompt",
        file=f"{DATA}/masks.py",
        old="        if is_last:\n            raise RowError(",
        new="        if False:\n            raise RowError(",
        tests=(f"{TESTS}/test_chat.py", f"{TESTS}/test_training_text.py", *SUPERVISION),
        shows="",
    ),
    Mutation(
        guards="a row with nothing to learn is refused",
        name="it is let through",
        file=f"{DATA}/chat.py",
        old="        if not len(learnt):\n",
        new="        if False:\n",
        tests=(f"{TESTS}/test_chat.py::test_a_row_of_which_nothing_is_learnt_is_refused",),
        shows="",
    ),
    Mutation(
        guards="bad rows are refused unless the run says otherwise",
        name="Refuse leaves out one in a hundred",
        file=f"{DATA}/bad_rows.py",
        old="    if policy.policy is BadRowPolicy.REFUSE:\n        return 0\n",
        new="",
        tests=(f"{TESTS}/test_prepare.py::test_bad_rows_come_back_with_their_lines",),
        shows="",
    ),
    Mutation(
        guards="the template is part of a cache's key",
        name="a changed template keeps the key",
        file=f"{DATA}/template.py",
        old="    return hashlib.sha256(text.encode()).hexdigest()\n\n\ndef _fingerprint",
        new='    return hashlib.sha256(b"").hexdigest()\n\n\ndef _fingerprint',
        tests=(f"{TESTS}/test_cache.py", f"{TESTS}/test_build.py", f"{TESTS}/test_chat.py"),
        shows="assert",
    ),
    Mutation(
        guards="every sequence is seen once per epoch, in an order of its own",
        name="every epoch has the same order",
        file=f"{DATA}/loader.py",
        old="shuffled(cache.training.num_sequences, seed, EPOCH_ORDER, part.epoch), part.epoch",
        new="shuffled(cache.training.num_sequences, seed, EPOCH_ORDER, 0), part.epoch",
        tests=(f"{TESTS}/test_loader.py::test_epochs_and_seeds_have_orders_of_their_own",),
        shows="assert",
    ),
]
