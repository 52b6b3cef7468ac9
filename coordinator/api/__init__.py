"""The HTTP API: FastAPI on trio under Hypercorn. One router per noun; ``app.py`` puts them together."""
