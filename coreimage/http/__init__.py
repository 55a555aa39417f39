"""The only place that downloads: resumable, verified while streaming, with progress.

    fetch = Downloader(progress=progress_for(sys.stderr))
    fetch("https://…/image.xz", Path("image.xz"), sha256="…")

Proxies and certificate bundles are taken from the environment, as requests does (`https_proxy`, `no_proxy`,
`REQUESTS_CA_BUNDLE`).
"""

from coreimage.http.cache import DEFAULT_LIMIT_BYTES, CachedFetch, DownloadCache, default_folder
from coreimage.http.download import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, Cancelled, Download, Downloader, Fetch
from coreimage.http.progress import SHOWN_FROM_BYTES, BarProgress, LineProgress, NoProgress, Progress, progress_for
from coreimage.http.retry import ATTEMPTS, BACKOFF_S, LONGEST_PAUSE_S, pause_s, retry_after_s

__all__ = [
    "ATTEMPTS",
    "BACKOFF_S",
    "CONNECT_TIMEOUT_S",
    "DEFAULT_LIMIT_BYTES",
    "LONGEST_PAUSE_S",
    "READ_TIMEOUT_S",
    "SHOWN_FROM_BYTES",
    "BarProgress",
    "CachedFetch",
    "Cancelled",
    "Download",
    "DownloadCache",
    "Downloader",
    "Fetch",
    "LineProgress",
    "NoProgress",
    "Progress",
    "default_folder",
    "pause_s",
    "progress_for",
    "retry_after_s",
]
