// Evaluates our objects and artifacts with the libraries of GitOps tools:
//
//	gitops kstatus FILE...               the status of each object, as in Flux and kpt
//	gitops argocd-health SCRIPT FILE...  the health of each object, by an Argo CD health script
//	gitops flux-pull HOST/REPOSITORY:TAG|@DIGEST [MEDIA-TYPE]
//	                                     the layer that a Flux OCIRepository would use
//
// A FILE contains YAML documents, one for each object; each answer is one line of JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// The maximum duration of one answer.
const limit = 20 * time.Second

// Argo CD's time limit of a script.
const scriptLimit = time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) > 1 && arguments[0] == "kstatus":
		return each(arguments[1:], kstatus)
	case len(arguments) > 2 && arguments[0] == "argocd-health":
		script, err := os.ReadFile(arguments[1])
		if err != nil {
			return err
		}
		return each(arguments[2:], func(object *unstructured.Unstructured) (any, error) {
			return health(string(script), object)
		})
	case (len(arguments) == 2 || len(arguments) == 3) && arguments[0] == "flux-pull":
		mediaType := ""
		if len(arguments) == 3 {
			mediaType = arguments[2]
		}
		return fluxPull(arguments[1], mediaType)
	default:
		return errors.New("usage: gitops kstatus FILE... | argocd-health SCRIPT FILE... | flux-pull REFERENCE [MEDIA-TYPE]")
	}
}

// each prints a line with the answer for every object of the files.
func each(files []string, judge func(*unstructured.Unstructured) (any, error)) error {
	for _, file := range files {
		opened, err := os.Open(file)
		if err != nil {
			return err
		}
		err = eachOf(opened, judge)
		opened.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}

func eachOf(file io.Reader, judge func(*unstructured.Unstructured) (any, error)) error {
	documents := yaml.NewYAMLOrJSONDecoder(file, 4096)
	for {
		var document json.RawMessage
		if err := documents.Decode(&document); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		// A document with only comments.
		if len(document) == 0 || string(document) == "null" {
			continue
		}
		// Not with encoding/json, which decodes every number as a float: the libraries expect the types of client-go.
		var object unstructured.Unstructured
		if err := object.UnmarshalJSON(document); err != nil {
			return err
		}
		answer, err := judge(&object)
		if err != nil {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
		if err := say(answer); err != nil {
			return err
		}
	}
}

func say(answer any) error { return json.NewEncoder(os.Stdout).Encode(answer) }

type verdict struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func kstatus(object *unstructured.Unstructured) (any, error) {
	result, err := status.Compute(object)
	if err != nil {
		return nil, err
	}
	return verdict{Status: result.Status.String(), Message: result.Message}, nil
}

// health runs a script as Argo CD's util/lua does: in gopher-lua, with only these libraries, the object as the global `obj`, and
// a table as the result.
func health(script string, object *unstructured.Unstructured) (any, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for _, library := range []struct {
		name string
		open lua.LGFunction
	}{
		{lua.LoadLibName, lua.OpenPackage},
		{lua.BaseLibName, lua.OpenBase},
		{lua.TabLibName, lua.OpenTable},
	} {
		if err := state.CallByParam(
			lua.P{Fn: state.NewFunction(library.open), Protect: true}, lua.LString(library.name)); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), scriptLimit)
	defer cancel()
	state.SetContext(ctx)
	state.SetGlobal("obj", value(state, object.Object))
	if err := state.DoString(script); err != nil {
		return nil, err
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return nil, fmt.Errorf("the script gives %s and not a table", state.Get(-1).Type())
	}
	answer := verdict{Status: lua.LVAsString(table.RawGetString("status"))}
	answer.Message = lua.LVAsString(table.RawGetString("message"))
	switch answer.Status {
	case "Healthy", "Progressing", "Suspended", "Degraded", "Missing", "Unknown":
		return answer, nil
	default:
		return nil, fmt.Errorf("Argo CD knows no health %q", answer.Status)
	}
}

func value(state *lua.LState, from any) lua.LValue {
	switch from := from.(type) {
	case bool:
		return lua.LBool(from)
	case float64:
		return lua.LNumber(from)
	case int64:
		return lua.LNumber(from)
	case string:
		return lua.LString(from)
	case []any:
		table := state.CreateTable(len(from), 0)
		for _, item := range from {
			table.Append(value(state, item))
		}
		return table
	case map[string]any:
		table := state.CreateTable(0, len(from))
		for key, item := range from {
			table.RawSetString(key, value(state, item))
		}
		return table
	default:
		return lua.LNil
	}
}

type layer struct {
	Revision  string `json:"revision"`
	MediaType string `json:"mediaType"`
	Title     string `json:"title"`
	Content   []byte `json:"content"`
}

// fluxPull does what source-controller does for `operation: copy`: it reads an image with go-containerregistry, selects its first
// layer or the first of that media type, and returns the layer's bytes unchanged.
func fluxPull(reference, mediaType string) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	parsed, err := name.ParseReference(reference, name.Insecure)
	if err != nil {
		return err
	}
	image, err := remote.Image(parsed, remote.WithContext(ctx))
	if err != nil {
		return err
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	manifest, err := image.Manifest()
	if err != nil {
		return err
	}
	descriptor, err := choose(manifest, mediaType)
	if err != nil {
		return err
	}
	blob, err := image.LayerByDigest(descriptor.Digest)
	if err != nil {
		return err
	}
	content, err := blob.Compressed()
	if err != nil {
		return err
	}
	defer content.Close()
	bytes, err := io.ReadAll(io.LimitReader(content, 1<<20))
	if err != nil {
		return err
	}
	return say(layer{
		Revision:  parsed.Identifier() + "@" + digest.String(),
		MediaType: string(descriptor.MediaType),
		Title:     descriptor.Annotations["org.opencontainers.image.title"],
		Content:   bytes,
	})
}

func choose(manifest *v1.Manifest, mediaType string) (*v1.Descriptor, error) {
	for index := range manifest.Layers {
		if mediaType == "" || string(manifest.Layers[index].MediaType) == mediaType {
			return &manifest.Layers[index], nil
		}
	}
	return nil, fmt.Errorf("failed to find layer with media type %q in artifact", mediaType)
}
