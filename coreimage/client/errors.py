"""Errors of the client. The class says whether trying again can help.

ClientError
├── RepositoryError     what the server gave is wrong: never used, not worth a retry
│   └── SignatureError    not signed by who must sign it
├── NotPresentError     the server does not have it
├── DownloadError       it could not be fetched: trying again may help
├── NoSpaceError        the disk is full: make room, and go on
└── TargetError         what was written does not read back as it should
"""


class ClientError(Exception):
    """`where` is the path on the server, or of this machine, that it is about, if any."""

    def __init__(self, problem: str, *, where: str = "") -> None:
        super().__init__(f"{where}: {problem}" if where else problem)
        self.problem, self.where = problem, where


class RepositoryError(ClientError):
    pass


class SignatureError(RepositoryError):
    pass


class NotPresentError(ClientError):
    pass


class DownloadError(ClientError):
    pass


class NoSpaceError(ClientError):
    pass


class TargetError(ClientError):
    pass
