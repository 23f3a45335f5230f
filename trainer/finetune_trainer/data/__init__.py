"""From rows of a dataset to micro-batches of token ids: formats, chat template, packing, token cache, loader."""
