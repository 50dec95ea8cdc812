"""Whose certificates are trusted: the machine's, or those of a file that the user names. They are always checked."""

import os
import ssl
from collections.abc import Iterator
from pathlib import Path

from tasks.foundation.errors import UsageError

# OpenSSL's own names, then those of widely used clients.
_FILES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_FOLDERS = ("SSL_CERT_DIR",)
_OF_ONES_OWN = (
    "If the server has a certificate of its own, or one of your organisation: --model-arg ca_file=PATH names the file "
    "of it, or of the authority that signed it (the environment variable SSL_CERT_FILE does too). The name in the base "
    "URL must be one that the certificate has."
)


def trusted(ca_file: str) -> ssl.SSLContext | None:
    """Return whom to trust: the authorities in `ca_file`, or those that the environment names; None for the machine's.

    Raises:
        UsageError: If the file or folder holds no certificate that can be read.
    """
    if ca_file:
        return _context("--model-arg ca_file", ca_file)
    named = next((name for name in (*_FILES, *_FOLDERS) if os.environ.get(name)), "")
    return _context(f"The environment variable {named}", os.environ[named]) if named else None


def _context(who: str, path: str) -> ssl.SSLContext:
    is_folder = Path(path).is_dir()
    try:
        context = ssl.create_default_context(capath=path) if is_folder else ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{who} names {path!r}, which holds no certificates that can be read: {error}.",
            "Name a file in PEM format (-----BEGIN CERTIFICATE-----) with the certificate of the authority that signed "
            "the server's, or with the server's own.",
        ) from error
    # A server's own certificate, named as such, is trusted though its authority is not known; forms that an authority
    # of one's own often lacks are not asked for. Its name, its dates and its signature are checked all the same.
    context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    return context


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
