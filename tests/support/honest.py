"""What honest nodes return: nothing here holds a secret, whatever credentials are open.

Each line of ``LINES`` is a message. ``DOCUMENTS`` are longer texts and ``VALUES`` other values.
"""

# ruff: noqa: E501 - a message keeps its line

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

LINES: Final = """\
please reset my password
I forgot my password and need help, please
a book by Alice Smith
list all customers
it runs on localhost
Hello! How can I help you today?
The capital of France is Paris.
Your order 4711-2024 was shipped on Monday.
The meeting was moved to 2024-10-22 at 14:30.
true
false
null
none
please
oauth2
us-east-1
eu-central-1
ap-southeast-2
5432
6379
443
postgres
postgresql
localhost
127.0.0.1
10.0.0.1
fe80::1
alice.smith
alice
bob
deployer
central
svc
root
admin
administrator
robot@example.com
alice@example.com
https://api.example.com/v1
https://api.example.com/v1?user=alice&region=eu-central-1
https://index.docker.io/v1/
https://registry.npmjs.org/
https://10.0.0.1:6443
https://github.com/acme/repo.git
https://oauth2.example.com/token
https://hooks.slack.com/services/
https://acct.blob.core.windows.net/c/b
postgresql://db.example.com:5432/app
redis://cache.example.com:6379/0
mongodb+srv://cluster0.example.net/db?retryWrites=true
jdbc:postgresql://db.example.com/app
jdbc:sqlserver://db.example.com:1433;databaseName=app;encrypt=true
db.example.com
db.example.com:5432
db.internal.example.com
smtp.example.com:587
core.windows.net
ns.servicebus.windows.net
gpt-4o-mini
gpt-4o-mini-2024-07-18
claude-sonnet-4-20250514
anthropic.claude-3-5-sonnet-20241022-v2:0
meta-llama/Llama-3.1-70B-Instruct
text-embedding-3-large
gemini-2.5-pro
Mixtral-8x7B-Instruct-v0.1
The auth_method is password, so the server asks for a password.
auth_method: password
auth: oauth2
grant_type=client_credentials
grant_type=authorization_code
token_type: bearer
token_type=bearer
Authorization: Bearer <token>
Set the header to "Authorization: Bearer $TOKEN".
Use Basic authentication with your user name and password.
Send the API key in the header X-API-Key.
The API key is read from OPENAI_API_KEY.
export OPENAI_API_KEY=...
export LOG_LEVEL=information
LOG_LEVEL=information
DEBUG=false
MODEL=gpt-4o-mini-2024-07-18
The key to success is patience.
Press any key to continue.
The primary key of the table is customer_id.
Add a foreign key from orders.customer_id to customers.id.
The keyspace customers has three tables.
Sort by the partition key, then by the sort key.
The secret of good bread is time.
It's no secret that the project is late.
The secret is stored in the vault under my-secret-name.
kubectl get secret my-secret-name -o yaml
The passenger list has 42 names.
We had to bypass the proxy for localhost.
The author of the report is Alice Smith.
The authority signed the certificate.
Authentication failed: the user name or password is wrong.
401 Unauthorized
403 Forbidden: insufficient scope, read:user is needed
429 Too Many Requests, retry after 30 seconds
FATAL: password authentication failed for user "svc"
psycopg.OperationalError: connection to server at "db.example.com", port 5432 failed
redis.exceptions.ConnectionError: Error 111 connecting to cache.example.com:6379
The session expired, please log in again.
The session starts at nine.
Your session is in room 4, building B.
The cookie banner uses the theme dark-mode.
theme=dark-mode
Path=/; HttpOnly; Secure; SameSite=Lax
I ate a cookie.
The signature of the contract is missing.
def f(token: str) -> bool: ...
def login(username: str, password: str) -> None:
for key, value in settings.items():
    return hashlib.sha256(data).hexdigest()
SELECT password_hash FROM users WHERE name = 'alice'
CREATE USER svc WITH PASSWORD :password;
UPDATE users SET password = NULL
SELECT count(*) FROM customers
INSERT INTO tokens (name, expires_at) VALUES ('ci', '2027-01-01')
git clone https://github.com/acme/repo.git
git config user.email alice@example.com
docker login -u alice --password-stdin
pip install psycopg[binary]
curl -H "Authorization: Bearer $TOKEN" https://api.example.com/v1
openssl rand -base64 32
ssh-keygen -t ed25519 -C alice@example.com
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl alice@example.com
-----BEGIN PUBLIC KEY-----
-----BEGIN PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
commit 9fceb02d0ae598e95dc970b74767f19372d61af8
sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
5d41402abc4b2a76b9719d911017c592
3f2504e0-4f89-11d3-9a0c-0305e82c3302
run 1efa3c2e-7b6d-4a58-9d0b-1c2d3e4f5a6b finished
call_abc123DEF456ghi789JKL012
toolu_01A09q90qw90lq917835lq9
msg_013Zva2CMHLNnjNJJKqJ2EF
chatcmpl-9a8b7c6d5e4f3g2h1i0j
AKIAIOSFODNN7EXAMPLE is the access key id.
arn:aws:iam::123456789012:role/app
projects/acme/secrets/api-key/versions/latest
The Azure account acctname is in westeurope.
RootManageSharedAccessKey
DefaultEndpointsProtocol=https
EndpointSuffix=core.windows.net
BlobEndpoint=https://acct.blob.core.windows.net/
Driver={ODBC Driver 18 for SQL Server}
Server=db.example.com
Database=app
Data Source=db
User ID=svc
Encrypt=True
sslmode=verify-full
sslmode=require
host=db.example.com
dbname=app user=svc
machine api.example.com login alice.smith
[default]
[prod]
region = eu-central-1
aws_access_key_id = AKIAIOSFODNN7EXAMPLE
certificate-authority-data
client-key-data
apiVersion: v1
kind: Secret
type: Opaque
namespace: default
name: my-secret-name
name: prod
server: https://10.0.0.1:6443
registry=https://registry.npmjs.org/
spring.datasource.url=jdbc:postgresql://db.example.com/app
<username>deployer</username>
<id>central</id>
org.apache.kafka.common.security.plain.PlainLoginModule required
The password has to have at least 12 characters.
password_min_length = 12
passwords are hashed with argon2id
Choose a passphrase of four words, such as on the famous comic.
Please confirm your e-mail address within 24 hours.
The code is 123456.
Your one-time code is 493817
Call me at +49 89 1234567.
IBAN DE89 3704 0044 0532 0130 00
The invoice number is 12345678.
1234567890
2024-01-01T00:00:00Z
20241022T101500Z
Mon, 22 Oct 2024 10:15:00 GMT
v2beta1
1.28.3-gke.1200
application/json; charset=utf-8
text/event-stream
Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36
GET /v1/customers?limit=100&offset=200 HTTP/1.1
POST /oauth2/v2.0/token HTTP/1.1
x-oauth-basic
x-access-token
X-Amz-Algorithm=AWS4-HMAC-SHA256
X-Amz-Date=20150830T123600Z
SCRAM-SHA-256
RS256
AES-256-GCM
changeit
changeme
information
environment
configuration
connectionString
swordfish
Default
ODBC Driver 18 for SQL Server
The weather in Munich: 17 °C, light rain.
Grüße aus München
東京の天気は晴れです
La clé est sous le paillasson.
😀👍
Lorem ipsum dolor sit amet, consectetur adipiscing elit.
The quick brown fox jumps over the lazy dog.
To be, or not to be, that is the question.
correct: the horse needs a new battery, and a staple
{"answer": 42}
{"auth_method": "password", "user": "alice"}
{"type": "service_account", "client_email": "robot@p.iam.example.com"}
{"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"}
{"access_token": "…", "expires_in": 3600, "token_type": "bearer"}
{"name": "LOG_LEVEL", "value": "information"}
""".splitlines()

DOCUMENTS: Final = [
    "# Setting up\n\n1. Create a service account.\n2. Download the key file.\n3. Set `GOOGLE_APPLICATION_CREDENTIALS` to its path.\n",
    "services:\n  db:\n    image: postgres:17\n    environment:\n      POSTGRES_USER: app\n      POSTGRES_PASSWORD_FILE: /run/secrets/db_password\n",
    "[tool.ruff]\nline-length = 100\n\n[tool.mypy]\nstrict = true\n",
    "Dear team,\n\nthe passwords of the test system were rotated yesterday.\nPlease log in again.\n\nBest regards\nAlice Smith\n",
    "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: app\ndata:\n  LOG_LEVEL: information\n  REGION: eu-central-1\n",
    "-----BEGIN CERTIFICATE-----\nMIIB0123456789abcdefghij\n-----END CERTIFICATE-----\n",
    'Traceback (most recent call last):\n  File "app.py", line 3, in connect\nOperationalError: password authentication failed\n',
    "id,name,email\n1,Alice Smith,alice@example.com\n2,Bob Jones,bob@example.com\n",
]

VALUES: Final[list[Any]] = [
    {"auth_method": "password", "port": 5432, "ssl": True, "host": "db.example.com"},
    {"messages": [{"role": "user", "content": "please reset my password"}]},
    {"model": "gpt-4o-mini", "temperature": 0.2, "stop": None, "max_tokens": 1024},
    {"usage": {"input_tokens": 12, "output_tokens": 345, "total_tokens": 357}},
    {"token": None, "key": "", "password": "", "secret": False},
    ["alice", "bob", "carol"],
    [1, 2, 3, 255, 256],
    {"embedding": [0.1, -0.2, 0.3]},
    uuid.UUID("1efa3c2e-7b6d-4a58-9d0b-1c2d3e4f5a6b"),
    datetime(2024, 10, 22, 10, 15, tzinfo=UTC),
    date(2024, 10, 22),
    Decimal("12.50"),
    Path("/run/secrets/db_password"),
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    {"answer": {"title": "Passwords", "body": "Use a password manager."}},
]

HONEST: Final[list[Any]] = [*LINES, *DOCUMENTS, *VALUES]
