"""A client that is to be killed: streams a completion, and says so with one line when its first piece has come.

Its own program, with the standard library alone, so that it starts at once. Usage: soak_victim.py HOST PORT, with the
API key in REDOMA_API_KEY and the body on standard input.
"""

import http.client
import os
import sys


def main() -> None:
    connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=600)
    headers = {"authorization": f"Bearer {os.environ['REDOMA_API_KEY']}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", sys.stdin.buffer.read(), headers)
    answer = connection.getresponse()
    answer.readline()
    print(answer.status, flush=True)
    while answer.readline():
        pass


if __name__ == "__main__":
    main()
