"""The errors that a user can mend. Each message says what is wrong, where, and how to mend it; the command
line prints it without a traceback. Everything else that is raised is a defect of this library."""


class RarlError(Exception):
    """Root of the tree: catch this one to catch every mistake a user can mend."""


class ConfigError(RarlError):
    """A run's YAML, or an option of a command, is not what the run needs."""


class DataError(RarlError):
    """An image, a collection or a task file is missing, malformed or out of its task's range."""


class ModelError(RarlError):
    """A model folder or name can't be loaded, or can't do what is asked of it."""
