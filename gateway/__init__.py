"""OpenAI's interface in front of the decode workers: who asks, what of it, where it is computed, and the answer back.

`app` is the HTTP side; `requests`, `prompts`, `text` and `answers` translate between OpenAI's words and tokens; `keys`
says who asks; `workers`, `prefixes` and `routing` choose who computes, `generating` has it computed. `gateway` holds
what requests share, `replica` runs it under Ray Serve, `python -m gateway` without.
"""
