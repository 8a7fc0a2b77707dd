"""The methods that are no inference."""

from tritonclient.grpc import service_pb2 as pb

from .base import Answer, case, plain

ABOUT = "server and models"
NONE = "there-is-none"


def asks(group, name, method, message, show=lambda response: ""):
    """A call; `message` makes its request of a side."""

    def run(side):
        return Answer("OK", plain(str(show(side.call(method, message(side)))), side))

    case(group, name)(run)


def tensors(told):
    return [f"{it.name} {it.datatype}{list(it.shape)}" for it in (*told.inputs, *told.outputs)]


asks(ABOUT, "live", "ServerLive", lambda s: pb.ServerLiveRequest(), lambda r: r.live)
asks(ABOUT, "ready", "ServerReady", lambda s: pb.ServerReadyRequest(), lambda r: r.ready)
asks(
    ABOUT, "a model is ready", "ModelReady",
    lambda s: pb.ModelReadyRequest(name=s.model), lambda r: r.ready,
)
asks(
    ABOUT, "an unknown model is ready", "ModelReady",
    lambda s: pb.ModelReadyRequest(name=NONE), lambda r: r.ready,
)
asks(
    ABOUT, "an unknown version is ready", "ModelReady",
    lambda s: pb.ModelReadyRequest(name=s.model, version="9"), lambda r: r.ready,
)
asks(
    ABOUT, "a version that is no number is ready", "ModelReady",
    lambda s: pb.ModelReadyRequest(name=s.model, version="one"), lambda r: r.ready,
)
asks(ABOUT, "metadata", "ModelMetadata", lambda s: pb.ModelMetadataRequest(name=s.model), tensors)
asks(ABOUT, "metadata of an unknown model", "ModelMetadata", lambda s: pb.ModelMetadataRequest(name=NONE))
asks(
    ABOUT, "metadata of an unknown version", "ModelMetadata",
    lambda s: pb.ModelMetadataRequest(name=s.model, version="9"),
)
asks(
    ABOUT, "configuration", "ModelConfig", lambda s: pb.ModelConfigRequest(name=s.model),
    lambda r: [it.name for it in (*r.config.input, *r.config.output)],
)
asks(ABOUT, "configuration of an unknown model", "ModelConfig", lambda s: pb.ModelConfigRequest(name=NONE))
asks(
    ABOUT, "statistics", "ModelStatistics", lambda s: pb.ModelStatisticsRequest(name=s.model),
    lambda r: [f"version {it.version}" for it in r.model_stats],
)
asks(ABOUT, "statistics of an unknown model", "ModelStatistics", lambda s: pb.ModelStatisticsRequest(name=NONE))
asks(
    ABOUT, "statistics of an unknown version", "ModelStatistics",
    lambda s: pb.ModelStatisticsRequest(name=s.model, version="9"),
)

REPOSITORY = "repository"
asks(
    REPOSITORY, "index", "RepositoryIndex", lambda s: pb.RepositoryIndexRequest(),
    lambda r: [it.state for it in r.models if it.name],
)
asks(
    REPOSITORY, "index of a named repository", "RepositoryIndex",
    lambda s: pb.RepositoryIndexRequest(repository_name="other"),
)
asks(REPOSITORY, "loading an unknown model", "RepositoryModelLoad", lambda s: pb.RepositoryModelLoadRequest(model_name=NONE))
asks(
    REPOSITORY, "loading without a name", "RepositoryModelLoad",
    lambda s: pb.RepositoryModelLoadRequest(),
)
asks(
    REPOSITORY, "unloading an unknown model", "RepositoryModelUnload",
    lambda s: pb.RepositoryModelUnloadRequest(model_name=NONE),
)


def configured(text):
    def message(side):
        request = pb.RepositoryModelLoadRequest(model_name=side.model)
        request.parameters["config"].string_param = text
        return request

    return message


asks(REPOSITORY, "loading with a configuration that is no JSON", "RepositoryModelLoad", configured("{"))
asks(
    REPOSITORY, "loading with a configuration of an unknown field", "RepositoryModelLoad",
    configured('{"no_such_field": 1}'),
)

SETTINGS = "settings"
asks(SETTINGS, "trace settings", "TraceSetting", lambda s: pb.TraceSettingRequest())
asks(SETTINGS, "trace settings of an unknown model", "TraceSetting", lambda s: pb.TraceSettingRequest(model_name=NONE))


def trace(side):
    request = pb.TraceSettingRequest()
    request.settings["no_such_setting"].value.append("1")
    return request


def log(side):
    request = pb.LogSettingsRequest()
    request.settings["no_such_setting"].bool_param = True
    return request


asks(SETTINGS, "a trace setting that does not exist", "TraceSetting", trace)
asks(SETTINGS, "log settings", "LogSettings", lambda s: pb.LogSettingsRequest())
asks(SETTINGS, "a log setting that does not exist", "LogSettings", log)
