"""Asks two questions about one document; the second time the store has the document's KV.

cachestore serve &
python examples/integrations/generate.py examples/needle/model examples/needle/documents/harbour.txt
"""

from argparse import ArgumentParser
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from cachestore.integrations.transformers import PrefixCache
from cachestore.service.client import RemoteStore

QUESTIONS = ("ship Bruges", "station Mumbai")


def main() -> None:
    """Prints both answers, and how much came from the store."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="a directory, or a hub id")
    parser.add_argument("document", type=Path, help="a text file")
    parser.add_argument("address", nargs="?", default="127.0.0.1:7420", help="of the store")
    options = parser.parse_args()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(options.model), AutoTokenizer.from_pretrained(options.model)
    document = options.document.read_text()
    with RemoteStore(options.address) as store:
        cache = PrefixCache(store, model)
        for name in QUESTIONS:
            question = f"\nQuestion: what is the code of {name}?\nAnswer: the code of {name} is "
            inputs = tokenizer(document + question, return_tensors="pt")
            output = cache.generate(inputs["input_ids"], inputs["attention_mask"], max_new_tokens=8, do_sample=False)
            print(name, tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
        print({figure.name: figure.value for figure in cache.figures()})


if __name__ == "__main__":
    main()
