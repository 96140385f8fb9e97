"""Open written checkpoints with stock transformers alone; run by its path in another process.

One argument: a JSON list of jobs. For each, ids, pixels and logits go to an .npz file, the key
report and the generated text to a .json beside it.
"""
# ruff: noqa: E402

import importlib
import json
import sys
from pathlib import Path


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "llava_sea":
            raise ImportError(name)


sys.meta_path.insert(0, Blocker())
try:
    importlib.import_module("llava_sea")
except ImportError:
    pass
else:
    raise SystemExit("llava_sea can be imported; the comparison would prove nothing")

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

jobs = json.loads(Path(sys.argv[1]).read_text())
for job in jobs:
    model, report = AutoModelForImageTextToText.from_pretrained(
        job["folder"], dtype=torch.float32, output_loading_info=True
    )
    processor = AutoProcessor.from_pretrained(job["folder"])
    image = Image.open(job["image"])
    whole = processor.apply_chat_template(job["whole"], tokenize=False)
    inputs = processor(images=image, text=whole, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    prompt = processor.apply_chat_template(
        job["whole"][:1],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    out = model.generate(**prompt, max_new_tokens=job["new_tokens"])
    new = out[0, prompt["input_ids"].shape[1] :]
    np.savez(
        job["out"],
        whole_ids=inputs["input_ids"][0].numpy(),
        logits=logits.numpy(),
        pixels=inputs["pixel_values"][0].numpy(),
        prompt_ids=prompt["input_ids"][0].numpy(),
    )
    result = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]),
        "mismatched": sorted(map(str, report["mismatched_keys"])),
        "text": processor.decode(new, skip_special_tokens=True),
        "class": type(model).__name__,
        "image_token_id": processor.image_token_id,
        "image_processor": type(processor.image_processor).__name__,
    }
    Path(job["out"] + ".json").write_text(json.dumps(result))
