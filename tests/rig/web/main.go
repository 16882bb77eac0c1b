// A web server that says who it is and whom it sees, in the words of traefik/whoami, for which it stands in where no
// registry can be reached. Connections stay open as long as the client wants.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
)

func main() {
	port := flag.String("port", "80", "where to listen")
	flag.Parse()
	if value := os.Getenv("WHOAMI_PORT_NUMBER"); value != "" {
		*port = value
	}
	hostname, _ := os.Hostname()
	http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		fmt.Fprintf(answer, "Hostname: %s\n", hostname)
		addresses, _ := net.InterfaceAddrs()
		for _, address := range addresses {
			if network, ok := address.(*net.IPNet); ok {
				fmt.Fprintf(answer, "IP: %s\n", network.IP)
			}
		}
		fmt.Fprintf(answer, "RemoteAddr: %s\n%s %s %s\nHost: %s\n",
			request.RemoteAddr, request.Method, request.URL.RequestURI(), request.Proto, request.Host)
		request.Header.Write(answer)
	})
	log.Fatal(http.ListenAndServe(":"+*port, nil))
}
