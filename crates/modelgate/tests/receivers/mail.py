"""A mail server: demands TLS and a password, refuses the first messages for now, and prints each one that it takes as a line of JSON.

    mail.py PORT (starttls|tls) CERTIFICATE KEY REFUSALS
"""

import json
import ssl
import sys
import time

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

PORT, MODE, CERTIFICATE, KEY, REFUSALS = sys.argv[1:]
LEFT = int(REFUSALS)


def say(item):
    print(json.dumps(item), flush=True)


class Handler:
    async def handle_DATA(self, server, session, envelope):
        global LEFT
        message = envelope.content.decode()
        kept = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "message": message,
            "encrypted": session.ssl is not None or MODE == "tls",
            "user": session.auth_data.login.decode() if session.auth_data else None,
        }
        if LEFT > 0:
            LEFT -= 1
            say({"refused": kept})
            return "451 try again later"
        say({"taken": kept})
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    is_right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"gate", b"p\xc3\xa4ss word")
    return AuthResult(success=is_right, handled=False, auth_data=data)


context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(CERTIFICATE, KEY)
options = {"authenticator": authenticate, "auth_required": True}
if MODE == "tls":
    options.update(ssl_context=context, auth_require_tls=False)
else:
    options.update(tls_context=context, require_starttls=True)
Controller(Handler(), hostname="127.0.0.1", port=int(PORT), **options).start()
while True:
    time.sleep(3600)
