"""Two turns of a conversation through the gateway: the second one finds what the first one computed.

python examples/openai/chat.py http://127.0.0.1:8000/v1 [API key]
"""

import sys
from typing import Any

from openai import OpenAI


def main(url: str, key: str = "none") -> None:
    """Asks twice, printing the answers as they come and how much of each prompt was not computed again."""
    client = OpenAI(base_url=url, api_key=key)
    model = next(iter(client.models.list())).id
    messages: list[Any] = [{"role": "system", "content": "You answer in one sentence."}]
    for question in ("What is a key/value cache?", "And why would one share it?"):
        messages.append({"role": "user", "content": question})
        stream = client.chat.completions.create(
            model=model, messages=messages, max_tokens=64, stream=True, stream_options={"include_usage": True}
        )
        answer = ""
        for chunk in stream:
            for choice in chunk.choices:
                answer += choice.delta.content or ""
                print(choice.delta.content or "", end="", flush=True)
            if chunk.usage is not None and chunk.usage.prompt_tokens_details is not None:
                cached = chunk.usage.prompt_tokens_details.cached_tokens
                print(f"\n[{chunk.usage.prompt_tokens} prompt tokens, {cached} of them cached]\n")
        messages.append({"role": "assistant", "content": answer})


if __name__ == "__main__":
    main(*sys.argv[1:])
