"""Policies on disk and on the Hub: files read strictly, folders written atomically, repositories pushed and pulled.

Part of the room `policy`. Start in `pretrained` (what users call), then `folders`, `download` and `upload`. Nothing
here runs what it reads.
"""
