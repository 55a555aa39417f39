"""The only place that downloads: resumable, verified while streaming, with progress.

    fetch = Downloader(progress=show_each_file())
    fetch("https://…/image.xz", Path("image.xz"), sha256="…")

Proxies and certificate bundles are taken from the environment, as requests does (`https_proxy`, `no_proxy`,
`REQUESTS_CA_BUNDLE`).
"""

from coreimage.http.cache import CachedFetch, DownloadCache, default_folder
from coreimage.http.download import Downloader, Fetch
from coreimage.http.progress import NoProgress, Progress, show_each_file, show_total

__all__ = [
    "CachedFetch",
    "DownloadCache",
    "Downloader",
    "Fetch",
    "NoProgress",
    "Progress",
    "default_folder",
    "show_each_file",
    "show_total",
]
