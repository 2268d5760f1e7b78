"""Whether the model of a hub id can be had: asked once, and once more, before libraries that try for a minute are."""

from __future__ import annotations

import time

AGAIN_AFTER_SECONDS = 1.0
"""Between the two tries. Chosen."""
CONFIG = "config.json"


def can_be_had(name: str, *, revision: str | None = None) -> bool:
    """Whether the configuration of a model lies in the cache, or the hub answers at all, whatever it says of it.

    Honours the switches that say offline. Without a network the libraries try a dozen times, for
    a minute (measured), before they say so.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        if isinstance(try_to_load_from_cache(name, CONFIG, revision=revision), str):
            return True
        url = hf_hub_url(name, CONFIG, revision=revision)
    except HFValidationError:
        return True  # what loads it says what is wrong with the name
    for wait in (AGAIN_AFTER_SECONDS, 0.0):
        try:
            get_hf_file_metadata(url)
        except HfHubHTTPError:
            return True
        except OfflineModeIsEnabled:
            return False
        except Exception:  # networks fail in many classes, which differ from version to version
            time.sleep(wait)
        else:
            return True
    return False
