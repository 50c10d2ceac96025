from serving import folders, guarded, server

__all__ = ["folders", "guarded", "server"]
