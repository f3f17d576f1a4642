"""The formats of texts, each as a pattern of a part of what the format allows, in plain ASCII and of bounded length."""

_MONTH_AND_DAY = (
    "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8])"
)
_LEAP_YEAR = "[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00"
_DATE = f"(?:[1-9][0-9]{{3}}-(?:{_MONTH_AND_DAY})|(?:{_LEAP_YEAR})-02-29)"
_HOUR = "(?:[01][0-9]|2[0-3])"
_TIME = rf"{_HOUR}:[0-5][0-9]:[0-5][0-9](?:\.[0-9]{{1,6}})?(?:Z|[-+]{_HOUR}:[0-5][0-9])"
_PART_OF_LABEL = "[A-Za-z0-9]{1,12}"
_HOST = rf"(?:{_PART_OF_LABEL}(?:-{_PART_OF_LABEL})?\.){{0,2}}[A-Za-z]{{2,12}}"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_GROUP = "[0-9a-f]{1,4}"
_SOME_GROUPS = f"{_GROUP}(?::{_GROUP}){{0,2}}"
_IPV6 = f"(?:{_GROUP}(?::{_GROUP}){{7}}|(?:{_SOME_GROUPS})?::(?:{_SOME_GROUPS})?)"
_LOCAL = r"[A-Za-z0-9]{1,12}(?:[._+-][A-Za-z0-9]{1,12}){0,2}"
_PATH = "(?:/[A-Za-z0-9._~-]*)*"
_URI = rf"[a-z][a-z0-9]{{1,10}}://{_HOST}(?::[1-9][0-9]{{0,3}})?{_PATH}(?:\?[A-Za-z0-9._~&=-]*)?(?:#[A-Za-z0-9._~-]*)?"
_CLOCK = "T(?:[0-9]{1,6}H(?:[0-9]{1,6}M(?:[0-9]{1,6}S)?)?|[0-9]{1,6}M(?:[0-9]{1,6}S)?|[0-9]{1,6}S)"
_MONTHS = "[0-9]{1,6}M(?:[0-9]{1,6}D)?"
_DAYS = f"(?:[0-9]{{1,6}}Y(?:{_MONTHS})?|{_MONTHS}|[0-9]{{1,6}}D)"
_DURATION = f"P(?:[0-9]{{1,6}}W|{_DAYS}(?:{_CLOCK})?|{_CLOCK})"
_POINTER = "(?:/[A-Za-z0-9_-]*)*"

# By format; one that is not here is an annotation, as the specification has it for all of them.
FORMATS = {
    name: f"^{pattern}$"
    for name, pattern in {
        "date": _DATE,
        "time": _TIME,
        "date-time": f"{_DATE}T{_TIME}",
        "duration": _DURATION,
        "email": f"{_LOCAL}@{_HOST}",
        "idn-email": f"{_LOCAL}@{_HOST}",
        "hostname": _HOST,
        "idn-hostname": _HOST,
        "ipv4": _IPV4,
        "ipv6": _IPV6,
        "uri": _URI,
        "uri-reference": _URI,
        "uri-template": _URI,
        "iri": _URI,
        "iri-reference": _URI,
        "uuid": "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        "json-pointer": _POINTER,
        "relative-json-pointer": f"(?:0|[1-9][0-9]{{0,3}})(?:#|{_POINTER})",
        "regex": "[A-Za-z0-9 _-]*",
    }.items()
}
