"""Client certificates and JSON Web Tokens for the drivers' checks: right ones, expired ones, and a stranger's.

Made by openssl, so that no package is needed. Files in the stage: NAME.crt and NAME.key, NAME.jwt, jwks.json.
"""

import base64
import json
import os
import subprocess
import time

ISSUER, AUDIENCE = "https://id.test", "pgtenant"
CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def make(stage, tenants):
    """`{tenant}-robot` and `stranger-{tenant}` certificates; `{tenant}`, `expired-{tenant}`, `stranger-{tenant}` tokens."""
    def openssl(*words, given=None):
        done = subprocess.run(["openssl", *words], cwd=stage.path, input=given, check=True, capture_output=True, timeout=30)
        return done.stdout

    openssl("req", "-x509", *CURVE, "-days", "2", "-keyout", "stranger-ca.key", "-out", "stranger-ca.crt", "-subj", "/CN=stranger")
    for tenant in tenants:
        for name, authority in ((f"{tenant}-robot", "ca"), (f"stranger-{tenant}", "stranger-ca")):
            openssl("req", *CURVE, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={tenant}_robot")
            stage.write(f"{name}.ext", f"subjectAltName=URI:spiffe://app/{tenant}\nbasicConstraints=CA:FALSE\n")
            openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.crt", "-CAkey", f"{authority}.key", "-CAcreateserial",
                    "-days", "2", "-out", f"{name}.crt", "-extfile", f"{name}.ext")
            os.chmod(stage.path / f"{name}.key", 0o600)
    for name in ("issuer", "stranger-issuer"):
        openssl("genrsa", "-out", f"{name}.pem", "2048")
    modulus = openssl("rsa", "-in", "issuer.pem", "-noout", "-modulus").decode().strip().split("=")[1]
    key = {"kty": "RSA", "kid": "one", "alg": "RS256", "use": "sig", "n": coded(bytes.fromhex(modulus)), "e": coded(b"\x01\x00\x01")}
    stage.write("jwks.json", json.dumps({"keys": [key]}))
    now = int(time.time())
    for tenant in tenants:
        for name, signer, expires in ((tenant, "issuer", now + 600), (f"expired-{tenant}", "issuer", now - 600),
                                      (f"stranger-{tenant}", "stranger-issuer", now + 600)):
            claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": expires, "tenant": tenant}
            text = ".".join(coded(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "one", "typ": "JWT"}, claims))
            signature = openssl("dgst", "-sha256", "-sign", f"{signer}.pem", given=text.encode())
            stage.write(f"{name}.jwt", f"{text}.{coded(signature)}")


def coded(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def configuration(tenants):
    """What of pgtenant's configuration goes with them."""
    robots = "".join(f"""
[[user]]
name = "{tenant}_robot"
certificate = "cn:{{user}}"
tenant = "{tenant}"
""" for tenant in tenants)
    return f"""
[token]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
jwks = "jwks.json"
tenant_claim = "tenant"
scope = "openid"
{robots}
[[user]]
name = "fleet"
certificate = "uri:spiffe://app/{{tenant}}"
tenants = ["*"]

[[user]]
name = "bearer"
token = "password"
tenants = ["*"]

[[user]]
name = "phone"
token = "oauthbearer"
tenants = ["*"]
"""
