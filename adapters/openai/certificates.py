"""Whose certificates are trusted: the machine's, or those of a file that the user names. They are always checked."""

import os
import ssl
from collections.abc import Iterator
from pathlib import Path

from medbench.tasks.foundation.errors import UsageError

# OpenSSL's own names, then those of widely used clients.
_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_OF_ONES_OWN = (
    "If the server has a certificate of its own, or one of your organisation: --model-arg ca_file=PATH names the file "
    "of it, or of the authority that signed it (the environment variable SSL_CERT_FILE does too). The name in the base "
    "URL must be one that the certificate has."
)


def trusted(ca_file: str) -> ssl.SSLContext | None:
    """Return whom to trust: the authorities in `ca_file`, or all that the environment names; None for the machine's.

    Raises:
        UsageError: If a file or folder holds no certificate that can be read.
    """
    given = {"--model-arg ca_file": ca_file}
    told = {f"The environment variable {name}": os.environ.get(name, "") for name in _VARIABLES}
    named = {who: path for who, path in (given if ca_file else told).items() if path}
    if not named:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for who, path in named.items():
        _trust(context, who, path)
    # A server's own certificate, named as such, is trusted though its authority is not known; forms that an authority
    # of one's own often lacks are not asked for. Its name, its dates and its signature are checked all the same.
    context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    return context


def _trust(context: ssl.SSLContext, who: str, path: str) -> None:
    # Variables of folders may name several.
    folders = [part for part in path.split(os.pathsep) if Path(part).is_dir()]
    try:
        for folder in folders:
            context.load_verify_locations(capath=folder)
        if not folders:
            context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{who} names {path!r}, which holds no certificates that can be read: {error}.",
            "Name a file in PEM format (-----BEGIN CERTIFICATE-----) with the certificate of the authority that signed "
            "the server's, or with the server's own.",
        ) from error


def problem_of(error: BaseException) -> tuple[str, str] | None:
    """Return what is wrong with a server's certificate and what to do, if an error in the chain of causes says so."""
    found = next((cause for cause in _causes(error) if isinstance(cause, ssl.SSLError)), None)
    said = "" if found is None else str(getattr(found, "verify_message", "") or found.reason or found)
    if isinstance(found, ssl.SSLCertVerificationError):
        return f"its certificate cannot be trusted: {said}", _OF_ONES_OWN
    if found is not None and found.reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}:
        return f"it does not speak https: {said}", "Write http:// in the base URL, or another port."
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
