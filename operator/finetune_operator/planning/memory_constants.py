"""Every number of the memory estimate that is not arithmetic on the model's shape, each with its source.

"Counted" means: the tensors that autograd saves were counted for this trainer's own model (torch 2.14, transformers
5.24, PEFT 0.21; bf16 under autocast), widths varied one at a time. "Assumed" ones are to be calibrated on a GPU.
"""

from finetune_contract import Precision

COMPUTE_BYTES = {Precision.BF16: 2, Precision.FP16: 2, Precision.FP32: 4}
"""Bytes of one element of the matrix products; frozen weights are stored in the same format."""

MASTER_BYTES = 4
"""Trained weights are fp32 whatever the precision: the contract's promise."""

GRADIENT_BYTES = 4
"""fp32, as the weights. DeepSpeed keeps reduced gradients in fp32 too (runtime/zero/stage_1_and_2.py,
`gradient_accumulation_dtype`, 0.19.8)."""

MOMENT_BYTES = 8
"""AdamW's two moments, fp32 each (Loshchilov and Hutter 2017, arXiv 1711.05101)."""

NORM_COPY_BYTES = 4
"""An RMSNorm saves its input in fp32 (transformers' Qwen3RMSNorm). Counted."""

DROPOUT_MASK_BYTES = 1
"""Per input element of an adapter with dropout: CUDA's native_dropout saves a mask of bytes."""

INDEX_BYTES = 24
"""Per token and expert: the orders in which rows are sorted by expert and back, as int64, and the router's weight and
choice. Counted."""

ROUTER_BYTES = 4
"""Per token and expert of the layer: the router's softmax, fp32. Counted."""

NF4_BYTES = 0.5
"""Per weight in four bits (Dettmers et al. 2023, arXiv 2305.14314); its block's scale comes on top."""

SCALE_BLOCK = 256
"""Scales in 8 bits that share one in fp32, with double quantisation (bitsandbytes' constant)."""

LOGIT_COPIES_BYTES = 8
"""fp32 copies of a logit at the worst moment, the beginning of the backward pass: the log-probabilities that
cross-entropy saved and their gradient. The compute-format logit comes on top."""

SUPERVISED_SPREAD = 1.5
"""A micro-batch may hold more supervised tokens than the dataset's mean share of them. Packed sequences average over
many conversations; half as many again is assumed. A single conversation may be all answer, so it gets no such help."""

GATHERED_LAYERS = 2
"""Layers whose weights are whole at the same time under FSDP: the one at work and the next, prefetched."""

ZERO3_LIVE_PARAMETERS = 1_000_000_000
"""DeepSpeed keeps up to so many gathered parameters alive (`stage3_max_live_parameters`, `stage3_max_reuse_distance`;
runtime/zero/config.py, 0.19.8)."""

NCCL_BYTES = 512 * 1024**2
"""NCCL's own channels and buffers, once there is more than one rank. Assumed."""

CONTEXT_BYTES = 640 * 1024**2
"""CUDA context and loaded kernels; they are no part of what torch's allocator counts. Assumed: H100 processes show
500 to 600 MiB before their first tensor."""

KERNEL_WORKSPACE_BYTES = 256 * 1024**2
"""Scratch of matrix products and attention: cuBLAS takes 32 MiB per handle and stream on Hopper. Assumed."""

FRAGMENTATION = 0.05
"""What the allocator holds on top of what comes and goes within a step (activations, logits, buffers). Assumed."""

HOST_PROCESS_BYTES = 6 * 1024**3
"""One rank's host memory without anything offloaded: interpreter, libraries, pinned staging. Assumed."""

SMALL_GPU_BYTES = 16 * 1024**3
"""When nobody knows the GPU, activations are recomputed unless the run would fit this: the smallest card that people
train on. A run that is a third slower than it could be beats one that dies."""

LARGE_GPU_BYTES = 80 * 1024**3
"""When nobody knows the GPU, a model is sharded if it would not even fit this: the memory of an A100 or H100."""
