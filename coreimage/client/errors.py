"""Errors of the client. The class says whether trying again can help.

ClientError
├── RepositoryError     what the server gave is wrong: never used, not worth a retry
│   └── SignatureError    not signed by who must sign it
├── NotPresentError     the server does not have it
├── DownloadError       it could not be fetched: trying again may help
├── NoSpaceError        the disk is full: make room, and run it again
└── TargetError         what was written does not read back as it should
"""


class ClientError(Exception):
    """A request to a server, or an installation, that failed.

    Args:
        problem: What happened, as a sentence without a full stop.
        where: The path on the server, or of this machine, that the problem is about.
        resolution: What the user can do, where more can be said than the class does.
    """

    def __init__(self, problem: str, *, where: str = "", resolution: str = "") -> None:
        super().__init__(f"{where}: {problem}" if where else problem)
        self.problem, self.where, self.resolution = problem, where, resolution


class RepositoryError(ClientError):
    """What the server gave is wrong, and is not used."""


class SignatureError(RepositoryError):
    """Something is not signed by whom it must be signed."""


class NotPresentError(ClientError):
    """The server does not have what was asked for."""


class DownloadError(ClientError):
    """The server could not be reached, or broke off."""


class NoSpaceError(ClientError):
    """The disk has no room for what is downloaded or installed."""


class TargetError(ClientError):
    """A target does not hold what was written to it."""
