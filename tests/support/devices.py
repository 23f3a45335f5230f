"""Where and in which dtypes a numerical test runs: on the CPU, and on a GPU as well where there is one."""

import torch

WAYS = [("cpu", torch.float32), ("cpu", torch.bfloat16)]
if torch.cuda.is_available():
    WAYS += [("cuda", torch.bfloat16), ("cuda", torch.float16), ("cuda", torch.float32)]
IDS = [f"{device}-{dtype}".replace("torch.", "") for device, dtype in WAYS]
