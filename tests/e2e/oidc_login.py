"""Logs in at an OpenID provider as a user with these claims, and prints the ID token.

Usage: oidc_login.py ISSUER CA_FILE SUBJECT CLAIMS_JSON
"""

import json
import ssl
import sys
from urllib.parse import parse_qs, urlsplit

import httpx

issuer, authority, subject, claims = sys.argv[1:]
client_id, redirect = "usher-e2e", "https://client.invalid/"
with httpx.Client(base_url=issuer, verify=ssl.create_default_context(cafile=authority)) as client:
    client.put(f"/users/{subject}", json=json.loads(claims)).raise_for_status()
    asked = {"client_id": client_id, "redirect_uri": redirect, "response_type": "code", "scope": "openid"}
    granted = client.post("/oauth2/authorize", params=asked, data={"sub": subject})
    code = parse_qs(urlsplit(granted.headers["location"]).query)["code"][0]
    wanted = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect}
    answer = client.post("/oauth2/token", data={**wanted, "client_id": client_id, "client_secret": "any"})
    print(answer.raise_for_status().json()["id_token"])
