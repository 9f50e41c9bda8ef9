"""The first example of the serving page, asked of the model that it serves."""

import json
import re
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/serving.md").read_text()


def test_the_answer_is_the_one_on_the_page() -> None:
    written = re.search(r"-d '(\{.*?\})'", PAGE, re.DOTALL)
    answer = re.search(r"The text of the answer is `(.*?)`", PAGE)
    assert written is not None and answer is not None
    asked = json.loads(written[1].replace("\n", " "))
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(ROOT / "examples/needle/model")
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "examples/needle/model")
    tokens = tokenizer(asked["prompt"], return_tensors="pt")
    made = model.generate(**tokens, max_new_tokens=asked["max_tokens"], do_sample=False)
    assert tokenizer.decode(made[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True) == answer[1]
