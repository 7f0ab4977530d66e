"""Credentials that are documents: what in them is a secret, and what may be said.

Each is a name, the credential, what a node must not let out, and what it may.
"""

# ruff: noqa: E501 - a document keeps its lines

from __future__ import annotations

import base64
import json
from typing import Final


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


P: Final = "s3cr3t-value-1"
DOCUMENTS: Final[dict[str, tuple[str, list[str | bytes], list[str]]]] = {
    "url": (
        "postgresql://app:s3cr3t-value-1@db.example.com:5432/app",
        [P],
        ["db.example.com", "app", "postgresql"],
    ),
    "url slash": (
        "postgresql://app:pa/ss#w@rd-9x@db.example.com/app",
        ["pa/ss#w@rd-9x"],
        ["db.example.com/app"],
    ),
    "url hash": (
        "redis://:pa#ss?word!1@cache.example.com:6379/0",
        ["pa#ss?word!1"],
        ["cache.example.com"],
    ),
    "url at": ("amqp://svc:p@ssw0rd-xy@mq.example.com/vh", ["p@ssw0rd-xy"], ["mq.example.com"]),
    "url pct": (
        "mongodb+srv://svc:p%40ss%2Fw0rd@cluster0.example.net/db?retryWrites=true",
        ["p@ss/w0rd", "p%40ss%2Fw0rd"],
        ["cluster0.example.net"],
    ),
    "url user token": (
        "https://ghp_16C7e42F292c6912E7710c838347Ae178B4a@github.com/acme/repo.git",
        ["ghp_16C7e42F292c6912E7710c838347Ae178B4a"],
        ["github.com/acme/repo.git"],
    ),
    "url user hex token": (
        "https://0123456789abcdef0123456789abcdef@sentry.example/1",
        ["0123456789abcdef0123456789abcdef"],
        ["sentry.example"],
    ),
    "xaccess": (
        "https://x-access-token:v1.1f699f1069f60xxx@github.com/a/b",
        ["v1.1f699f1069f60xxx"],
        ["x-access-token"],
    ),
    "oauth-basic": (
        "https://abcdef0123456789abcd:x-oauth-basic@github.com/a/b",
        ["abcdef0123456789abcd"],
        ["x-oauth-basic"],
    ),
    "url user": ("https://alice.smith@git.example.com/r", [], ["alice.smith", "git.example.com"]),
    "smtp": (
        "smtp://robot@example.com:s3cr3t-value-1@smtp.example.com:587",
        [P],
        ["robot@example.com", "smtp.example.com"],
    ),
    "query pw": (
        "https://api.example.com/v1?user=alice&password=s3cr3t-value-1&region=eu-central-1",
        [P],
        ["eu-central-1", "api.example.com"],
    ),
    "query apikey": (
        "https://api.example.com/v1?api_key=Zx81aBc9QwErTy12&units=metric",
        ["Zx81aBc9QwErTy12"],
        ["units=metric"],
    ),
    "sas url": (
        "https://acct.blob.core.windows.net/c/b?sv=2022-11-02&ss=b&srt=sco&sp=rwdlac&se=2027-01-01T00:00:00Z&spr=https&sig=aB3%2Fd5FgH7jKlMnOpQrStUvWxYz0123456789%2Babc%3D",
        [
            "aB3/d5FgH7jKlMnOpQrStUvWxYz0123456789+abc=",
            "aB3%2Fd5FgH7jKlMnOpQrStUvWxYz0123456789%2Babc%3D",
        ],
        ["2022-11-02", "2027-01-01T00:00:00Z"],
    ),
    "s3 presigned": (
        "https://b.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20150830%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20150830T123600Z&X-Amz-Expires=60&X-Amz-Security-Token=FwoGZXIvYXdzEJr1230abcDEF456&X-Amz-SignedHeaders=host&X-Amz-Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
        [
            "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
            "FwoGZXIvYXdzEJr1230abcDEF456",
        ],
        ["AWS4-HMAC-SHA256", "20150830T123600Z"],
    ),
    "sslpassword": (
        "postgresql://db.example.com/app?user=svc&sslpassword=k3y-Phrase-77&sslmode=verify-full",
        ["k3y-Phrase-77"],
        ["verify-full"],
    ),
    "fragment": (
        "https://app.example/cb#access_token=Zx81aBc9QwErTy12&token_type=bearer",
        ["Zx81aBc9QwErTy12"],
        ["token_type=bearer"],
    ),
    "libpq": (
        "host=db.example.com port=5432 dbname=app user=svc password='it\\'s a s\\\\ecret 1' sslmode=require",
        ["it's a s\\ecret 1", "it\\'s a s\\\\ecret 1"],
        ["db.example.com", "require"],
    ),
    "libpq plain": (
        "host=db.example.com user=svc password=s3cr3t-value-1",
        [P],
        ["db.example.com"],
    ),
    "libpq semicolon": (
        "host=db.example.com user=svc password=s3;cr3t-value-1 dbname=x",
        ["s3;cr3t-value-1"],
        ["db.example.com"],
    ),
    "jdbc pg": (
        "jdbc:postgresql://db.example.com/app?user=svc&password=s3cr3t-value-1&ssl=true",
        [P],
        ["db.example.com"],
    ),
    "jdbc ms": (
        "jdbc:sqlserver://db.example.com:1433;databaseName=app;user=sa;password={s3;cr}}t-9};encrypt=true",
        ["s3;cr}t-9"],
        ["databaseName", "db.example.com"],
    ),
    "jdbc ora": (
        "jdbc:oracle:thin:scott/t1ger-Pass@//db.example.com:1521/orcl",
        ["t1ger-Pass"],
        ["db.example.com", "scott"],
    ),
    "jdbc ora at": (
        'jdbc:oracle:thin:scott/"t1@ger/9"@db.example.com:1521:orcl',
        ["t1@ger/9"],
        ["db.example.com"],
    ),
    "jdbc mysql": (
        "jdbc:mysql://svc:s3cr3t-value-1@db.example.com:3306/app",
        [P],
        ["db.example.com"],
    ),
    "jdbc db2": (
        "jdbc:db2://db.example.com:50000/app:user=svc;password=s3cr3t-value-1;",
        [P],
        ["db.example.com"],
    ),
    "ado": (
        "Server=tcp:db.example.com,1433;Database=app;User ID=svc;Password=s3cr3t-value-1;Encrypt=True;",
        [P],
        ["db.example.com", "Database=app"],
    ),
    "ado quotes": (
        'Data Source=db;User Id=svc;Password="s3;c""r3t 1";Pooling=true',
        ['s3;c"r3t 1'],
        ["Data Source"],
    ),
    "odbc": (
        "Driver={ODBC Driver 18 for SQL Server};Server=db.example.com;Uid=svc;Pwd={s3;cr3t}}1};",
        ["s3;cr3t}1"],
        ["ODBC Driver 18 for SQL Server"],
    ),
    "ado spaces": (
        "Server=db.example.com; User=svc; Password=s3cr3t-value-1; Database=app",
        [P],
        ["db.example.com"],
    ),
    "azure storage": (
        "DefaultEndpointsProtocol=https;AccountName=acctname;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;EndpointSuffix=core.windows.net",
        [
            "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
        ],
        ["acctname", "core.windows.net"],
    ),
    "azure bus": (
        "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=abcDEF123456789012345678901234567890abcdefg=;EntityPath=q",
        ["abcDEF123456789012345678901234567890abcdefg="],
        ["RootManageSharedAccessKey", "ns.servicebus.windows.net"],
    ),
    "azure sas": (
        "BlobEndpoint=https://acct.blob.core.windows.net/;SharedAccessSignature=sv=2022-11-02&ss=b&sig=aB3%2Fd5FgH7jKlMnOpQrStUvW%3D",
        ["aB3%2Fd5FgH7jKlMnOpQrStUvW%3D", "aB3/d5FgH7jKlMnOpQrStUvW="],
        ["acct.blob.core.windows.net"],
    ),
    "bearer": ("Bearer Zx81aBc9QwErTy12", ["Zx81aBc9QwErTy12"], ["Bearer "]),
    "auth header": (
        "Authorization: Bearer Zx81aBc9QwErTy12",
        ["Zx81aBc9QwErTy12"],
        ["Authorization: Bearer"],
    ),
    "basic": (
        "Basic " + _b64("alice:s3cr3t-value-1"),
        [P, _b64("alice:s3cr3t-value-1")],
        ["alice"],
    ),
    "token hdr": (
        "Token 9944b09199c62bcf9418ad846dd0e4bbdfc6ee4b",
        ["9944b09199c62bcf9418ad846dd0e4bbdfc6ee4b"],
        [],
    ),
    "x-api-key": ("X-API-Key: Zx81aBc9QwErTy12", ["Zx81aBc9QwErTy12"], ["X-API-Key"]),
    "aws": (
        "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\nregion = eu-central-1\n\n[prod]\naws_secret_access_key=abcJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEK",
        ["wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "abcJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEK"],
        ["region = eu-central-1", "eu-central-1"],
    ),
    "env": (
        '# settings\nexport DB_HOST=db.internal.example.com\nDB_PASSWORD="s3cr3t \\"value 1"\nAPI_KEY=\'Zx81aBc9QwErTy12\' # prod\nLOG_LEVEL=information\nMODEL=gpt-4o-mini-2024-07-18',
        ['s3cr3t "value 1', "Zx81aBc9QwErTy12"],
        ["db.internal.example.com", "LOG_LEVEL=information", "gpt-4o-mini-2024-07-18"],
    ),
    "env one": (
        "OPENAI_API_KEY=sk-proj-abcdefghijkl0123",
        ["sk-proj-abcdefghijkl0123"],
        ["OPENAI_API_KEY"],
    ),
    "env url": (
        "DATABASE_URL=postgres://u:s3cr3t-value-1@h.example/db\nDEBUG=false",
        [P],
        ["h.example", "DEBUG=false"],
    ),
    "netrc": (
        "machine api.example.com\n  login alice.smith\n  password s3cr3t-value-1\nmachine b.example.com login bob password other-v4lue",
        [P, "other-v4lue"],
        ["api.example.com", "alice.smith"],
    ),
    "netrc1": (
        "machine api.example.com login alice.smith password s3cr3t-value-1",
        [P],
        ["api.example.com"],
    ),
    "pgpass": (
        "db.example.com:5432:app:svc:s3cr3t\\:value-1\n*:*:*:postgres:0ther-secret",
        ["s3cr3t:value-1", "s3cr3t\\:value-1", "0ther-secret"],
        ["db.example.com", "postgres"],
    ),
    "json": (
        json.dumps(
            {"host": "db.example.com", "auth_method": "password", "password": P, "user": "postgres"}
        ),
        [P],
        ["password", "postgres", "db.example.com"],
    ),
    "json nested": (
        json.dumps(
            {
                "a": {"clientSecret": "Zx81aBc9QwErTy12", "tokens": ["tk-0123456789ab"]},
                "dsn": "postgres://u:s3cr3t-value-1@h/db",
            }
        ),
        ["Zx81aBc9QwErTy12", "tk-0123456789ab", P],
        [],
    ),
    "yaml": (
        "db:\n  host: db.example.com\n  password: s3cr3t-value-1\napi:\n  key: |\n    Zx81aBc9QwErTy12\n    Zx81aBc9QwErTy13\n  url: https://api.example.com/v2\nmodel: claude-sonnet-4-20250514\n",
        [P, "Zx81aBc9QwErTy12\nZx81aBc9QwErTy13"],
        ["db.example.com", "https://api.example.com/v2", "claude-sonnet-4-20250514"],
    ),
    "kubeconfig": (
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: "
        + _b64("-----BEGIN CERTIFICATE-----\nMIIB0123456789abcdefghij\n-----END CERTIFICATE-----")
        + "\n    server: https://10.0.0.1:6443\n  name: prod\nusers:\n- name: admin\n  user:\n    token: eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl\n    client-key-data: "
        + _b64(
            "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\n-----END PRIVATE KEY-----"
        )
        + "\n",
        [
            "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl",
            "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7",
            _b64(
                "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\n-----END PRIVATE KEY-----"
            ),
        ],
        [
            "https://10.0.0.1:6443",
            _b64(
                "-----BEGIN CERTIFICATE-----\nMIIB0123456789abcdefghij\n-----END CERTIFICATE-----"
            ),
            "MIIB0123456789abcdefghij",
        ],
    ),
    "k8s": (
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: my-secret-name\ndata:\n  thing: "
        + _b64("s3cr3t-value-1")
        + "\n  username: "
        + _b64("alice.smith")
        + "\ntype: Opaque",
        [P, _b64(P)],
        ["my-secret-name", "alice.smith"],
    ),
    "cookie": (
        "Cookie: theme=dark-mode; sessionid=38afes7a8zq1x9; _ga=GA1.2.1234567890.1234567890",
        ["38afes7a8zq1x9"],
        ["dark-mode"],
    ),
    "set-cookie": (
        "session=eyJ1c2VyIjoxfQ.ZxQ1aw.k8sJ3nd93nfjs8djf; Path=/; HttpOnly; Secure; SameSite=Lax",
        ["eyJ1c2VyIjoxfQ.ZxQ1aw.k8sJ3nd93nfjs8djf"],
        ["HttpOnly"],
    ),
    "docker": (
        json.dumps(
            {"auths": {"https://index.docker.io/v1/": {"auth": _b64("alice:s3cr3t-value-1")}}}
        ),
        [P, _b64("alice:s3cr3t-value-1")],
        ["https://index.docker.io/v1/"],
    ),
    "npmrc": (
        "registry=https://registry.npmjs.org/\n//registry.npmjs.org/:_authToken=npm_abcdefghij0123456789",
        ["npm_abcdefghij0123456789"],
        ["https://registry.npmjs.org/"],
    ),
    "gitcred": (
        "https://alice:s3cr3t-value-1@github.com\nhttps://bob:0ther-secret@gitlab.com",
        [P, "0ther-secret"],
        ["github.com"],
    ),
    "toml": (
        '[tool.x]\ntoken = "Zx81aBc9QwErTy12"\nname = "some-long-name"\ndb = { host = "db.example.com", password = "s3cr3t-value-1" }',
        ["Zx81aBc9QwErTy12", P],
        ["some-long-name"],
    ),
    "properties": (
        "spring.datasource.url=jdbc:postgresql://db.example.com/app\nspring.datasource.password=s3cr3t-value-1",
        [P],
        ["db.example.com"],
    ),
    "xml": (
        "<settings><servers><server><id>central</id><username>deployer</username><password>s3cr3t-value-1</password></server></servers></settings>",
        [P],
        ["deployer"],
    ),
    "web.config": (
        '<configuration>\n<connectionStrings>\n<add name="Default" connectionString="Server=db.example.com;Database=app;User Id=sa;Password=s3cr3t-value-1" />\n</connectionStrings>\n<appSettings><add key="ApiKey" value="Zx81aBc9QwErTy12"/></appSettings></configuration>',
        [P, "Zx81aBc9QwErTy12"],
        ["db.example.com"],
    ),
    "jaas": (
        'org.apache.kafka.common.security.plain.PlainLoginModule required username="svc" password="s3cr3t-value-1";',
        [P],
        ["PlainLoginModule"],
    ),
    "sqlalchemy odbc": (
        "mssql+pyodbc:///?odbc_connect=DRIVER%3D%7BODBC+Driver+18%7D%3BSERVER%3Ddb.example.com%3BUID%3Dsa%3BPWD%3Ds3cr3t-value-1",
        [P],
        ["db.example.com"],
    ),
    "slack": (
        "https://hooks.slack.com/services/T00000000/B00000000/aB3dE5fG7hJ9kL1mN3pQ5rS7",
        ["aB3dE5fG7hJ9kL1mN3pQ5rS7"],
        ["hooks.slack.com", "T00000000"],
    ),
    "telegram": (
        "https://api.telegram.org/bot123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/sendMessage",
        ["123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"],
        ["sendMessage"],
    ),
    "b64 json": (
        _b64(
            json.dumps(
                {
                    "private_key_id": "0123456789abcdef0123",
                    "client_secret": "Zx81aBc9QwErTy12",
                    "client_email": "robot@p.iam.example.com",
                }
            )
        ),
        ["Zx81aBc9QwErTy12"],
        ["robot@p.iam.example.com"],
    ),
    "jwk": (
        json.dumps(
            {
                "kty": "EC",
                "crv": "P-256",
                "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
            }
        ),
        [
            "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
            base64.urlsafe_b64decode("jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI="),
        ],
        ["f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"],
    ),
    "htpasswd": ("alice:s3cr3t-value-1", [P], ["alice"]),
    "ecs": (
        json.dumps(
            {
                "environment": [
                    {"name": "API_KEY", "value": "Zx81aBc9QwErTy12"},
                    {"name": "LOG_LEVEL", "value": "information"},
                ]
            }
        ),
        ["Zx81aBc9QwErTy12"],
        ["information"],
    ),
    "pydict": ("{'host': 'db.example.com', 'password': 's3cr3t-value-1'}", [P], ["db.example.com"]),
    "quoted": ('"sk-abcdefghijklmnop"', ["sk-abcdefghijklmnop"], []),
    "codes": ("ab12-cd34-ef\nxy98-zz76-kk\nqq11-ww22-ee", ["xy98-zz76-kk"], []),
    "totp": (
        "JBSWY3DPEHPK3PXPJBSWY3DP",
        [base64.b32decode("JBSWY3DPEHPK3PXPJBSWY3DP")],
        [],
    ),
    "otpauth": (
        "otpauth://totp/Acme:alice@example.com?secret=JBSWY3DPEHPK3PXP&issuer=Acme",
        ["JBSWY3DPEHPK3PXP"],
        ["alice@example.com"],
    ),
    "postgres common": (
        "postgresql://postgres:postgres@localhost/app",
        [],
        ["postgres", "localhost"],
    ),
    "json common": (
        json.dumps({"password": "changeit", "api_key": "OPENAI_API_KEY"}),
        [],
        ["changeit", "OPENAI_API_KEY"],
    ),
    "passphrase": (
        json.dumps({"passphrase": "correct horse battery staple"}),
        ["correct horse battery staple"],
        [],
    ),
    "ssh": (
        "hosts:\n  - password: s3cr3t-value-1\n    name: web\n  - name: db\n    password: 0ther-secret",
        [P, "0ther-secret"],
        [],
    ),
    "no scheme": ("svc:s3cr3t-value-1@db.example.com:5432/app", [P], ["db.example.com:5432/app"]),
    "go": ("svc:pa:ss@w0rd@tcp(127.0.0.1:3306)/app?parseTime=true", ["pa:ss@w0rd"], ["127.0.0.1"]),
    "scp": ("git@github.com:acme/repo.git", [], ["github.com", "acme/repo.git"]),
    "yaml flow": (
        "db: {user: svc, password: s3cr3t-value-1}\ntokens: [tk-0123456789ab, tk-ba9876543210]",
        [P, "tk-ba9876543210"],
        ["db: {user: svc"],
    ),
    "cookies.txt": (
        "# Netscape HTTP Cookie File\n.example.com\tTRUE\t/\tTRUE\t1999999999\tsessionid\t38afes7a8zq1x9\n#HttpOnly_example.com\tFALSE\t/\tFALSE\t0\ttheme\tdark-mode\n#HttpOnly_example.com\tTRUE\t/\tTRUE\t0\tsid\t0x7a8zq1x938afe",
        ["38afes7a8zq1x9", "0x7a8zq1x938afe"],
        ["dark-mode", "1999999999"],
    ),
    "environ": ('os.environ["API_KEY"] = "Zx81aBc9QwErTy12"', ["Zx81aBc9QwErTy12"], ["os.environ"]),
    "systemd": (
        '[Service]\nUser=deployer\nEnvironment="API_KEY=Zx81aBc9QwErTy12"',
        ["Zx81aBc9QwErTy12"],
        ["deployer"],
    ),
    "compose": (
        "services:\n  app:\n    environment:\n      - API_KEY=Zx81aBc9QwErTy12\n      - LOG_LEVEL=information",
        ["Zx81aBc9QwErTy12"],
        ["information"],
    ),
    "wireguard": (
        "[Interface]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n[Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\nEndpoint = vpn.example.com:51820",
        [
            "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=",
            base64.b64decode("yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="),
        ],
        ["xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "vpn.example.com:51820"],
    ),
    "json lines": (
        '{"password": "s3cr3t-value-1"}\n{"password": "0ther-secret"}',
        [P, "0ther-secret"],
        [],
    ),
    "quoted json": (json.dumps(json.dumps({"password": P})), [P], []),
    "json with a comment": (
        '{\n  // of the test system\n  "password": "s3cr3t-value-1",\n  "host": "db.example.com",\n}',
        [P],
        ["db.example.com"],
    ),
    "a name twice": (
        '{"password": "s3cr3t-value-1", "password": "0ther-secret"}',
        [P, "0ther-secret"],
        [],
    ),
    "windows": (
        "HOST=db.example.com\r\nAPI_KEY=Zx81aBc9QwErTy12\r\n",
        ["Zx81aBc9QwErTy12"],
        ["db.example.com"],
    ),
    "k8s words": (
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: my-secret-name\nstringData:\n  thing: my-own-value\n",
        ["my-own-value"],
        ["my-secret-name"],
    ),
    "pod": (
        "containers:\n- name: app\n  env:\n  - name: API_KEY\n    value: my-own-value\n  - name: LOG_LEVEL\n    value: information",
        ["my-own-value"],
        ["information"],
    ),
    "commented out": (
        "# DB_PASSWORD=s3cr3t-value-1\n#API_KEY=Zx81aBc9QwErTy12\n# the log of the test system\nLOG_LEVEL=information",
        [P, "Zx81aBc9QwErTy12"],
        ["the log of the test system"],
    ),
}
