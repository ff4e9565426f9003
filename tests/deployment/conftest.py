from tests.support.verifiers import measured as measured
