"""Run the SAM translator over template.yaml, as AWS does at a deployment, without an AWS account."""

import os
import sys
from pathlib import Path
from unittest.mock import Mock

os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")

from samtranslator.model.exceptions import InvalidDocumentException
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse


def main(file: str) -> int:
    template = yaml_parse(Path(file).read_text(encoding="utf-8"))
    parameters = {
        name: str(parameter.get("Default", "given")) for name, parameter in template["Parameters"].items()
    }
    functions = [name for name, r in template["Resources"].items() if r["Type"] == "AWS::Serverless::Function"]
    # `sam build` puts the address of an upload here; the translator only wants to see one.
    template["Globals"]["Function"]["CodeUri"] = "s3://bucket/key"
    policies = Mock(load=Mock(return_value={
        "AWSLambdaBasicExecutionRole": "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"}))
    try:
        translated = Translator(policies.load(), Parser()).translate(template, parameters)
    except InvalidDocumentException as e:
        for cause in [e.message, *(c.message for c in e.causes)]:
            print(f"{file}: {cause}", file=sys.stderr)
        return 1
    types = [r["Type"] for r in translated["Resources"].values()]
    missing = len(functions) - types.count("AWS::Lambda::Function")
    if missing or "AWS::ApiGateway::RestApi" not in types:
        print(f"{file}: the translation lacks {missing} functions or the API", file=sys.stderr)
        return 1
    print(f"{file}: {len(functions)} functions, {len(types)} resources after the translation")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
