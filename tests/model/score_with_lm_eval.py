"""Score requests with lm_eval's own model class; run by its path in a Python that has lm_eval.

Two arguments: a JSON file ``{"folder", "requests": [[context, continuation], ...]}``, and where the
list of ``[log-likelihood, greedy or not]`` goes.
"""

import json
import sys
from pathlib import Path

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

job = json.loads(Path(sys.argv[1]).read_text())
model = HFLM(pretrained=job["folder"], dtype="float32", device="cpu", batch_size=2)
requests = [
    Instance("loglikelihood", {}, tuple(pair), number)
    for number, pair in enumerate(job["requests"])
]
found = [[float(value), bool(greedy)] for value, greedy in model.loglikelihood(requests)]
Path(sys.argv[2]).write_text(json.dumps(found))
