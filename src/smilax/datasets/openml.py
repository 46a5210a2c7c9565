"""Downloads from OpenML, with an error that says what else there is."""

from typing import Any


def fetch(name: str, data_id: int, wanted: str, **arguments: Any) -> Any:
    """scikit-learn's `fetch_openml`, which keeps what it has downloaded.

    Raises:
        ImportError: if pandas is missing, which scikit-learn needs for OpenML.
        OSError: if the data set cannot be had; `wanted` says which files would do.
    """
    from sklearn.datasets import fetch_openml

    try:
        return fetch_openml(data_id=data_id, parser="auto", **arguments)
    except ImportError as error:
        raise ImportError(
            f"{name}: OpenML's files are read with pandas, which is not installed (pip install smilax[openml]); "
            f"or give data_dir, a folder with {wanted}"
        ) from error
    except Exception as error:
        raise OSError(
            f"{name} could not be fetched from OpenML ({error}); give data_dir, a folder with {wanted}"
        ) from error
