"""KMS by moto, for the tests of providers of keys. It prints one line of JSON, and runs until it is terminated.

moto checks the signatures of the requests that come after those that make the user.
"""

import json
import os
import signal

import boto3
from moto.server import ThreadedMotoServer

POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}

os.environ.update(AWS_ACCESS_KEY_ID="setup", AWS_SECRET_ACCESS_KEY="setup", AWS_DEFAULT_REGION="eu-central-1")
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
endpoint = f"http://{host}:{port}"
iam = boto3.client("iam", endpoint_url=endpoint)
iam.create_user(UserName="events")
iam.put_user_policy(UserName="events", PolicyName="kms", PolicyDocument=json.dumps(POLICY))
key = iam.create_access_key(UserName="events")["AccessKey"]
master = boto3.client("kms", endpoint_url=endpoint).create_key()["KeyMetadata"]["KeyId"]
print(json.dumps({"endpoint": endpoint, "id": key["AccessKeyId"], "secret": key["SecretAccessKey"], "key": master}), flush=True)
signal.pause()
