"""Answer questions with lmms-eval's own ``llava_hf``; run by its path in a Python that has it.

Two arguments: a JSON file ``{"folder", "questions": [[picture, text], ...], "new_tokens"}``, and
where the answers and the token ids of the prompts go, for both of lmms-eval's classes: "chat",
which it takes by itself, and "simple" (``--force_simple``).
"""

import json
import sys
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.models import get_model
from PIL import Image

job = json.loads(Path(sys.argv[1]).read_text())
result: dict[str, Any] = {}
for kind in ("chat", "simple"):
    model = get_model("llava_hf", kind == "simple")(
        pretrained=job["folder"], device="cpu", device_map="cpu", dtype="float32"
    )
    docs = [{"image": Image.open(path).convert("RGB"), "text": t} for path, t in job["questions"]]
    model.task_dict = {"task": {"test": docs}}
    prompts = []
    generate = model.model.generate

    def spy(prompts=prompts, generate=generate, **inputs):
        prompts.append(inputs["input_ids"][0].tolist())
        return generate(**inputs)

    model.model.generate = spy
    texts = []
    for number, doc in enumerate(docs):
        settings = {"max_new_tokens": job["new_tokens"], "temperature": 0}
        if kind == "simple":
            arguments = (doc["text"], settings, lambda d: [d["image"]], number, "task", "test")
        else:

            def messages(d):
                image = {"type": "image", "url": d["image"]}
                return [{"role": "user", "content": [image, {"type": "text", "text": d["text"]}]}]

            arguments = (doc["text"], messages, settings, number, "task", "test")
        metadata = {"task": "task", "doc_id": number, "repeats": 1}
        request = Instance("generate_until", arguments, 0, metadata)
        (answer,) = model.generate_until([request])
        texts.append(getattr(answer, "text", answer))
    result[kind] = {"texts": texts, "prompts": prompts}
Path(sys.argv[2]).write_text(json.dumps(result))
