// Reads requests as servers in Go do: Ollama, llama-swap and others. It is asked and answers as readers.py.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"os"
	"path"
	"strings"

	"github.com/tidwall/gjson"
)

// A reading: the values that it finds, or nil if it refuses.
type reading = []string

// Ollama's requests: gin decodes one value from the body, and encoding/json matches names in any case.
func ollama(body []byte) reading {
	var request struct {
		Model string `json:"model"`
	}
	if json.NewDecoder(bytes.NewReader(body)).Decode(&request) != nil {
		return nil
	}
	return some(request.Model)
}

// Ollama's /api/show: `name` counts where there is no `model`.
func show(body []byte) reading {
	var request struct {
		Model string `json:"model"`
		Name  string `json:"name"`
	}
	if json.NewDecoder(bytes.NewReader(body)).Decode(&request) != nil {
		return nil
	}
	if request.Model == "" {
		return some(request.Name)
	}
	return some(request.Model)
}

// llama-swap looks for the field without decoding the body.
func llamaSwap(body []byte) reading {
	if !gjson.ValidBytes(body) {
		return nil
	}
	return some(gjson.GetBytes(body, "model").String())
}

// As older llama-swaps and many proxies do.
func anyMap(body []byte) reading {
	var fields map[string]interface{}
	if json.Unmarshal(body, &fields) != nil {
		return nil
	}
	model, isText := fields["model"].(string)
	if !isText && fields["model"] != nil {
		return nil
	}
	return some(model)
}

func some(model string) reading {
	if model == "" {
		return reading{}
	}
	return reading{model}
}

// net/http's ParseMultipartForm. The Content-Type is the first line.
func form(payload []byte) reading {
	line := bytes.IndexByte(payload, '\n')
	kind, parameters, err := mime.ParseMediaType(string(payload[:line]))
	if err != nil || kind != "multipart/form-data" {
		return nil
	}
	read, err := multipart.NewReader(bytes.NewReader(payload[line+1:]), parameters["boundary"]).ReadForm(1 << 20)
	if err != nil {
		return nil
	}
	values := append(reading{}, read.Value["model"]...)
	for range read.File["model"] {
		values = append(values, "(a file)")
	}
	return values
}

// net/http's target of a request, and how its ServeMux cleans a path.
func uri(text []byte) []reading {
	target, err := url.ParseRequestURI(string(text))
	if err != nil {
		return []reading{nil, nil, nil}
	}
	models, err := url.ParseQuery(target.RawQuery)
	query := append(reading{}, models["model"]...)
	if err != nil {
		query = nil
	}
	cleaned := path.Clean(target.Path)
	if strings.HasSuffix(target.Path, "/") && cleaned != "/" {
		cleaned += "/"
	}
	return []reading{query, {target.Path}, {cleaned}}
}

func main() {
	questions, answers := bufio.NewReader(os.Stdin), bufio.NewWriter(os.Stdout)
	head := make([]byte, 5)
	for {
		if _, err := io.ReadFull(questions, head); err != nil {
			return
		}
		payload := make([]byte, binary.BigEndian.Uint32(head[1:]))
		if _, err := io.ReadFull(questions, payload); err != nil {
			return
		}
		var readings []reading
		switch head[0] {
		case 'j':
			readings = []reading{ollama(payload), llamaSwap(payload), anyMap(payload), show(payload)}
		case 'm':
			readings = []reading{form(payload)}
		default:
			readings = uri(payload)
		}
		answer, err := json.Marshal(readings)
		if err != nil {
			panic(err)
		}
		length := make([]byte, 4)
		binary.BigEndian.PutUint32(length, uint32(len(answer)))
		answers.Write(length)
		answers.Write(answer)
		answers.Flush()
	}
}
