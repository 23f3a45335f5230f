"""Splits of a token cache with the documents and sequences that a test wants."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.cache import SplitFiles


def write_split(
    folder: Path,
    input_ids: NDArray[np.int32],
    supervised: NDArray[np.uint8],
    documents: NDArray[np.int64],
    packs: list[list[int]],
) -> None:
    """Write a split whose sequences are `packs`, lists of numbers of `documents`, which lie side by side."""
    order = [document for pack in packs for document in pack]
    spans = [slice(documents[document], documents[document + 1]) for document in order]
    files = SplitFiles.created(folder, documents=len(order), tokens=sum(int(span.stop - span.start) for span in spans))
    files.write_tokens(
        0, np.concatenate([input_ids[span] for span in spans]), np.concatenate([supervised[span] for span in spans])
    )
    files.write_documents(0, np.cumsum([span.stop - span.start for span in spans], dtype=np.int64))
    learnt = iter([int(supervised[span].sum()) for span in spans])
    files.finish([np.array([[len(pack), sum(next(learnt) for _ in pack)] for pack in packs], dtype=np.int64)])
