"""The scheduler's message in words: how many nodes there are, and what each kind of them lacks.

`0/12 nodes are available: 8 Insufficient nvidia.com/gpu, 4 node(s) had untolerated taint(s)` is true and hard to read.
What is not recognised is passed on as it stands, so no word is lost when a scheduler learns to say new things.
"""

import re

_HEAD = re.compile(r"(?P<fit>\d+)/(?P<all>\d+) nodes are available:?\s*(?P<rest>.*)", re.DOTALL)
_PREEMPTION = re.compile(r"\s*preemption: ", re.IGNORECASE)
_PART_ENDS = re.compile(r",\s+(?=\d+ )")
"""A reason may hold commas, as a taint's list does; the next one begins with a number of nodes."""
_PART = re.compile(r"(?P<count>\d+) (?P<why>.+)", re.DOTALL)

_REASONS = (
    (r"Insufficient (\S+)", r"lack \1"),
    (r"Too many pods", "are full of pods"),
    (r"node\(s\) had untolerated taint(?:\(s\))?", "have a taint that is not tolerated"),
    (r"node\(s\) had untolerated taint (\{.*\})", r"have a taint that is not tolerated \1"),
    (r"node\(s\) didn't match Pod's node affinity/selector", "have not the labels that nodeSelector or affinity want"),
    (r"node\(s\) didn't match pod affinity rules", "are not beside the workers that are placed already"),
    (r"node\(s\) didn't satisfy existing pods anti-affinity rules", "are kept for other pods by these"),
    (r"node\(s\) were unschedulable", "are cordoned"),
    (r"node\(s\) didn't have free ports for the requested pod ports", "have their ports taken"),
    (r"node\(s\) had volume node affinity conflict", "are out of reach of the run's volume"),
    (r"node\(s\) didn't find available persistent volumes to bind", "have no volume for the run"),
    (r"No preemption victims found for incoming pod\.?", "hold nothing that may be evicted for it"),
    (r"Preemption is not helpful for scheduling\.?", "would not fit after evictions either"),
)


def in_words(message: str) -> str:
    """`message`, its known parts put into plain words and the others left as they are."""
    first, *others = _PREEMPTION.split(message)
    sentences = [_sentence(first), *(f"with evictions: {_sentence(other)}" for other in others)]
    return "; ".join(sentences)


def _sentence(text: str) -> str:
    found = _HEAD.fullmatch(text.strip())
    if found is None:
        return text
    counted = f"{found['fit']} of {found['all']} nodes fit"
    parts = [_part(each) for each in _PART_ENDS.split(_without_full_stop(found["rest"]))]
    return f"{counted}: {', '.join(parts)}" if found["rest"] else counted


def _part(text: str) -> str:
    found = _PART.fullmatch(text)
    if found is None:
        return text
    for pattern, words in _REASONS:
        if (known := re.fullmatch(pattern, found["why"])) is not None:
            return f"{found['count']} {known.expand(words)}"
    return text


def _without_full_stop(text: str) -> str:
    return text.removesuffix(".")
